"""Averages of the parameters that stages keep: put into the model, read, exported.

An average is a slot named ``average`` of the parameter's shape, as `average_weights` and `ASGD`
(torch's ``ax``) keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pellucid.compose import Pipeline
from pellucid.fuse.engine import Entry
from pellucid.torch.checks import check_memory
from pellucid.torch.groups import follow
from pellucid.torch.report import LoadReport
from pellucid.torch.saving import Saving

__all__ = ["Averages", "averages_in"]


@dataclass(frozen=True)
class Swapped:
    """A parameter that holds its average."""

    param: Any
    average: Any  # the slot, which holds the parameter's value meanwhile
    aside: Any = None  # where the types differ the slot keeps the average, and this the value


class Averages(Saving):
    """The part of a torch optimizer that gives averages of the parameters.

    While they are swapped in, a step, a load, a copy, `state_dict` and surgery raise: each would
    take averages for parameters.
    """

    _swapped: tuple[Swapped, ...] | None = None

    @contextmanager
    def averaged(self, slot: str | None = None) -> Iterator[None]:
        """The parameters hold their averages inside a ``with`` block; at its end, their values.

        Also when it ends by an exception. Parameters without an average (those of a rule that
        keeps none, and before their first update) keep their value. Otherwise as `swap_averages`.

        Args:
            slot: which average, where a parameter has several: the slot's or its stage's name.

        Raises:
            ValueError: no stage keeps an average, or it is not said which of several.
            RuntimeError: the averages are swapped in already.
        """
        self.check_unswapped("averaged()")
        self.swap_averages(slot)
        try:
            yield
        finally:
            if self._swapped is not None:
                self.swap_averages()

    def swap_averages(self, slot: str | None = None) -> None:
        """Exchange parameters and averages, in place: once, and the next call puts them back.

        Memory for one parameter is taken, the largest; of parameters whose average has another
        type, a copy until they are put back. What is written to a parameter while its average is
        swapped in becomes the average, where the types are the same.

        Args:
            slot: as in `averaged`.

        Raises:
            ValueError, TypeError: as in `averaged`; an average that does not fit its parameter.
                Nothing was changed.
        """
        if self._swapped is not None:
            self._put_back(self._swapped)
            self._swapped = None
            return
        follow(self)
        with torch.no_grad():
            swapped = tuple(
                Swapped(
                    entry.param, held, None if held.dtype == entry.param.dtype
                    else entry.param.detach().clone(memory_format=torch.preserve_format),
                )
                for entry, held in self._averages(slot)
            )  # fmt: skip
            buffer = _buffer_for(swapped)
            for one in swapped:
                if one.aside is None:
                    _exchange(one.param, one.average, buffer)
                else:
                    one.param.copy_(one.average)
        self._swapped = swapped

    @torch.no_grad()
    def _put_back(self, swapped: Sequence[Swapped]) -> None:
        for one in swapped:
            kept = one.average if one.aside is None else one.aside
            if one.param.shape != kept.shape or one.param.dtype != kept.dtype:
                raise RuntimeError(
                    f"a parameter of shape {tuple(kept.shape)} and {kept.dtype} was given other "
                    f"data while its average was swapped in: {tuple(one.param.shape)}, "
                    f"{one.param.dtype}; put the parameter's own memory back"
                )
        buffer = _buffer_for(swapped)
        for one in reversed(swapped):  # of two that share memory the first was first
            if one.aside is None:
                _exchange(one.param, one.average, buffer)
            else:
                one.param.copy_(one.aside)

    def averages(self, slot: str | None = None) -> dict[str, Any]:
        """Copies of all averages that exist, by the parameters' names, in their own types.

        Args:
            slot: as in `averaged`.

        Raises:
            ValueError: as in `averaged`.
        """
        follow(self)
        found: dict[str, Any] = {}
        for entry, held in self._averages(slot):
            name = f"{entry.name} ({entry.index})" if entry.name in found else entry.name
            found[name] = held.detach().clone()
        return found

    def averaged_state_dict(self, model: torch.nn.Module, slot: str | None = None) -> Any:
        """The model's ``state_dict`` with averages in place of its parameters.

        Parameters are told by identity, names are the model's; averages are copies in the
        parameters' types. Buffers and parameters without an average are what
        ``model.state_dict()`` gives: the live tensors.

        Args:
            model: the module that has the parameters, also inside a wrapper.
            slot: as in `averaged`.

        Raises:
            ValueError: as in `averaged`; or none of the model's parameters is in this optimizer.
        """
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model is {type(model).__name__}; allowed is a torch.nn.Module")
        follow(self)
        held = {id(entry.param): average for entry, average in self._averages(slot)}
        ours = {id(entry.param) for entry in self.entries}
        if not any(id(param) in ours for param in model.parameters()):
            raise ValueError(
                f"no parameter of this {type(model).__name__} is in the optimizer: give the model "
                "that it updates"
            )
        found = model.state_dict()
        for name, value in model.state_dict(keep_vars=True).items():
            average = held.get(id(value))
            if average is not None and name in found:
                found[name] = average.detach().to(value.dtype, copy=True)
        return found

    def _averages(self, slot: str | None) -> list[tuple[Entry, Any]]:
        """Entries that have an average now, with the tensor that holds it."""
        chosen = {id(one.pipeline): _chosen(one.pipeline, slot) for one in self.entries}
        if not any(chosen.values()):
            raise ValueError(
                f"{self.stage!r} keeps no average of the parameters"
                f"{'' if slot is None else f' named {slot!r}'}: chain one that does, such as "
                "pellucid.chain(AdamW(), average_weights(0.999))"
            )
        swapped = self._swapped or ()
        elsewhere = {id(one.average): one.param for one in swapped if one.aside is None}
        found = []
        for entry in self.entries:
            full = chosen[id(entry.pipeline)]
            held = None if full is None else self.arrays.get(entry, full)
            if held is None:
                continue
            what = f"slot {full!r} of {entry.name!r}"
            check_memory(held, what)
            if held.shape != entry.param.shape or held.is_complex() != entry.param.is_complex():
                raise ValueError(
                    f"{what} has shape {tuple(held.shape)} and dtype {held.dtype}; its parameter "
                    f"has {tuple(entry.param.shape)} and {entry.param.dtype}"
                )
            found.append((entry, elsewhere.get(id(held), held)))
        return found

    def check_unswapped(self, what: str) -> None:
        """Raise while the parameters hold their averages."""
        if self._swapped is not None:
            raise RuntimeError(
                f"{what} while the parameters hold their averages: leave the block of averaged() "
                "first, or call swap_averages(), which puts them back"
            )

    # -- what would take averages for parameters -------------------------------------------

    def step(self, closure: Any = None, **extras: Any) -> Any:
        if self._swapped is not None:
            self.check_unswapped("step()")
        return super().step(closure, **extras)

    def state_dict(self) -> dict[str, Any]:
        self.check_unswapped("state_dict()")
        return super().state_dict()

    def load_state_dict(  # type: ignore[override]  # torch's returns nothing
        self, state_dict: dict[str, Any], strict: bool = True, dry_run: bool = False
    ) -> LoadReport:
        self.check_unswapped("load_state_dict()")
        return super().load_state_dict(state_dict, strict, dry_run)

    def __getstate__(self) -> dict[str, Any]:
        self.check_unswapped("a copy or pickle")
        return super().__getstate__()


def averages_in(pipeline: Pipeline) -> list[str]:
    """The full names of slots that are averages of the parameter."""
    return [
        full
        for full, (_, declared) in pipeline.slots.items()
        if declared.name == "average" and declared.scope == "parameter"
        and declared.shape == "param"
    ]  # fmt: skip


def _chosen(pipeline: Pipeline, slot: str | None) -> str | None:
    """The average that is meant in a pipeline, if it has one."""
    every = averages_in(pipeline)
    if slot is not None:
        return next((full for full in every if slot in (full, full.rpartition(".")[0])), None)
    if len(every) > 1:
        raise ValueError(
            f"there are several averages ({', '.join(map(repr, every))}): say which, "
            f"slot={every[0]!r}"
        )
    return every[0] if every else None


def _buffer_for(swapped: Sequence[Swapped]) -> Any:
    """Memory for the largest tensor that is exchanged, taken before anything is written."""
    sizes = [one.param.numel() * one.param.element_size() for one in swapped if one.aside is None]
    return torch.empty(max(sizes, default=0), dtype=torch.uint8, device="cpu")


def _exchange(one: Any, other: Any, buffer: Any) -> None:
    size = one.numel() * one.element_size()
    held = buffer[:size].view(one.dtype).view(one.shape)
    held.copy_(one)
    one.copy_(other)
    other.copy_(held)
