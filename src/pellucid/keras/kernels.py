"""The fused kernel under Keras: one launch for all variables, where their memory can be written.

On the torch backend the tensors' own memory; on TensorFlow the variables' buffers, from an
operation in the graph. JAX's arrays cannot be written; XLA fuses there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy

from pellucid.fuse.launch import Launch, Member, Step
from pellucid.keras.core import Parameter
from pellucid.keras.slots import begins_at

if TYPE_CHECKING:
    from pellucid.keras.optimizer import Optimizer

__all__ = ["Fused", "Kernels", "Prepared"]

KEPT = 8  # launches for different sets of variables, sleeping stages and new slots


@dataclass
class Prepared:
    """A launch for some variables, and the order of the arrays that it writes."""

    launch: Launch
    parameters: list[Parameter]
    columns: list[tuple[tuple[str, str | None], Any, Any]]  # key, parameters, places of slots
    fresh: list[tuple[int, str]]  # slots whose first update it runs
    addresses: dict[tuple[str, str | None], Any] = field(default_factory=dict)

    def point(self, key: tuple[str, str | None], addresses: Any) -> None:
        """Point a column at arrays, in the order of the parameters; 0 where there is none."""
        known = self.addresses.get(key)
        if known is None or not numpy.array_equal(known, addresses):
            self.launch.set_addresses(key, addresses)
            self.addresses[key] = addresses


@dataclass(frozen=True)
class Fused:
    """An update that the fused kernel did."""

    veto: Any = None  # None: it was not vetoed, else the condition


class Kernels:
    """The launches of one optimizer."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.core = optimizer, optimizer.core
        self._prepared: dict[Any, Prepared] = {}
        self._calls: WeakSet[Any] = WeakSet()
        self.written: dict[int, Any] = {}  # by the number of parameters: see `torch_kernel`

    def keep(self, call: Any) -> None:
        """Know what a graph calls; the graph holds it."""
        self._calls.add(call)

    def retire(self) -> None:
        """The optimizer's structure has changed: graphs that call must say so."""
        for call in self._calls:
            call.retire()

    def begun(self, prepared: Prepared) -> None:
        """The first update of some slots was done: the launch is for no other."""
        if prepared.fresh:
            prepared.fresh.clear()
            self._prepared = {k: one for k, one in self._prepared.items() if one is not prepared}

    def asleep(self, updates: int) -> frozenset[str]:
        """Stages that take no part in the update after ``updates`` completed ones."""
        sleepers = self.core.sleepers()
        return frozenset(name for name, every in sleepers.items() if (updates + 1) % every)

    def slots(self, parameters: Sequence[Parameter]) -> list[tuple[int, str]]:
        """(place of the parameter, slot) of all arrays behind the parameters themselves."""
        return [
            (place, full) for place, one in enumerate(parameters) for full in one.slots
        ]

    def prepared(
        self,
        parameters: Sequence[Parameter],
        asleep: frozenset[str],
        begun: Any,
        rooms: tuple[tuple[int, int], ...] = (),
    ) -> Prepared:
        """The launch that updates these parameters.

        Args:
            begun: of each flag of the core: whether the slot has taken part in an update.
            rooms: (parameter, rows) where it works on copies of some rows.
        """
        indices = tuple(one.index for one in parameters)
        new = tuple(
            key for key, place in self.core.flags.items() if begun is None or not begun[place]
        ) if begun is None or not all(begun) else ()
        key = (indices, asleep, new, rooms)
        kept = self._prepared.get(key)
        if kept is None:
            kept = self._made(list(parameters), asleep, new, dict(rooms))
        if next(reversed(self._prepared), None) != key:  # the last used is the last to go
            others = [(k, one) for k, one in self._prepared.items() if k != key]
            self._prepared = dict([*others[1 - KEPT :], (key, kept)])
        return kept

    def _made(
        self,
        parameters: list[Parameter],
        asleep: frozenset[str],
        new: tuple[tuple[int, str], ...],
        rooms: Mapping[int, int],
    ) -> Prepared:
        members = []
        for one in parameters:
            shape = one.shape or (1,)
            shape = (rooms.get(one.index, shape[0]), *shape[1:])
            fresh = frozenset(full for index, full in new if index == one.index)
            made = self.core.program(one, asleep)
            addresses: dict[tuple[str, str | None], int] = {("param", None): 0}
            members.append(Member(one.index, one.group, made, shape, addresses, fresh))
        columns: dict[str, list[tuple[int, int]]] = {}
        for place, (owner, full) in enumerate(self.slots(parameters)):
            columns.setdefault(full, []).append((owner, place))
        arranged = [
            (("slot", full), *numpy.array(found, numpy.int64).T) for full, found in columns.items()
        ]
        active = {one.index for one in parameters}
        return Prepared(
            Launch(members, self.core.seed), parameters, arranged,
            [key for key in new if key[0] in active],
        )  # fmt: skip

    def fills(self, prepared: Prepared, step: Step) -> list[tuple[int, float]]:
        """(place of the slot, number) of what begins, in this update, at a hyperparameter."""
        if not prepared.fresh:
            return []
        fresh, found = set(prepared.fresh), []
        for place, (owner, full) in enumerate(self.slots(prepared.parameters)):
            parameter = prepared.parameters[owner]
            target = begins_at(self.core, parameter, full)
            if target is not None and (parameter.index, full) in fresh:
                found.append((place, step.values[parameter.group][target]))
        return found

    def run(
        self,
        prepared: Prepared,
        params: Any,
        slots: Any,
        grads: Any,
        step: Step,
        count: int,
        meanwhile: Callable[[], Any] | None = None,
    ) -> bool:
        """Run a launch on memory at these addresses; False if it was vetoed.

        Args:
            params, grads: addresses in the order of the parameters.
            slots: addresses in the order of `slots`.
            count: threads that may take part.
        """
        prepared.point(("param", None), params)
        prepared.point(("grad", None), grads)
        for key, owners, places in prepared.columns:
            column = numpy.zeros(len(prepared.parameters), numpy.int64)
            column[owners] = slots[places]
            prepared.point(key, column)
        done = prepared.launch.run(step, count, meanwhile)
        return bool(done)
