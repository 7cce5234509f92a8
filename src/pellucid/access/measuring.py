"""How statistics are taken: what is there is looked at in one walk over memory."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

from pellucid.access.flags import Looked, count_of, flags_of, value_of
from pellucid.access.sources import Group, Owner, Source
from pellucid.access.statistics import KINDS, ParameterStatistics, Statistics
from pellucid.fuse.measure import Change, Survey, copies, quantiles_of_rate
from pellucid.fuse.pool import threads as pool_threads

__all__ = ["measured", "statistics_of"]

STEP = "step"  # a counter among the slots of torch: of no interest by its norm


def statistics_of(source: Source, grads: Any = None) -> Statistics:
    """What can be told without a step."""
    made = _Taking(source, grads)
    made.take()
    return made.result


@contextmanager
def measured(source: Source, grads: Any = None) -> Iterator[Statistics]:
    """Statistics of the change that is made inside the block; filled in at its end."""
    made = _Taking(source, grads)
    with made.watch():
        yield made.result
    made.take()
    _memory[source] = made.memory


_memory: WeakKeyDictionary[Source, Any] = WeakKeyDictionary()
"""Of the copies, kept for a view's next measurement."""


def _parts(source: Source) -> Sequence[Source]:
    """The optimizers' sources, where a view is of several."""
    parts: Sequence[Source] = getattr(source, "sources", (source,))
    return parts


class _Count:
    """Of one optimizer's updates in a block; a stranger may keep no count of its own."""

    def __init__(self, source: Source) -> None:
        self.source, self.before, self.begun = source, source.updates, 0

    def hooks(self, look: Callable[[], None]) -> list[Any]:
        """Look before each step, where the optimizer tells of them."""

        def begin(*_: Any) -> None:
            self.begun += 1
            look()

        with suppress(Exception):  # of a class that did not call its base's constructor
            return [self.source.optimizer.register_step_pre_hook(begin)]
        return []

    def inside(self, moved: bool) -> int:
        """Updates since the block began; if uncounted, judged by whether a parameter changed."""
        made = self.source.updates - self.before
        if made > 0 or getattr(self.source, "recorded", None) is not None:
            return max(made, 0)
        return max(self.begun, 1) if moved else 0


class _Taking:
    """Takes the statistics of one optimizer, once."""

    def __init__(self, source: Source, grads: Any) -> None:
        self.source, self.grads = source, grads
        count = len(source.owners())
        self.result = Statistics(f"{source.name}: {count} parameter{'s' * (count != 1)}")
        self.result.title += f", {source.updates} update{'s' * (source.updates != 1)}"
        self.before: dict[str, Any] = {}
        self.before_grads: dict[str, Any] = {}
        self.counts: dict[int, _Count] = {}  # of the block's updates, by the optimizer's source
        self.rates_before: dict[int, float | None] = {}  # by group
        self.memory: Any = None  # of the copies

    # -- before ----------------------------------------------------------------------------

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Copy all parameters; see the gradients that the step is given."""
        source = self.source
        owners = source.owners()
        arrays = [self._try(owner, "parameter", source.array) for owner in owners]
        kept, self.memory = copies(arrays, _threads(arrays), _memory.pop(source, None))
        self.before = {owner.label: one for owner, one in zip(owners, kept, strict=True)}
        self.counts = {id(one): _Count(one) for one in _parts(source)}
        self.rates_before = self._rates()

        def look(*_: Any) -> None:  # gradients are often cleared after the step
            for owner in source.owners():
                grad = self._try(owner, "gradient", source.gradient)
                if grad is not None:
                    self.before_grads[owner.label] = grad

        look()
        hooks = [hook for count in self.counts.values() for hook in count.hooks(look)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _rates(self) -> dict[int, float | None]:
        return {group.index: value_of(group, "learning_rate") for group in self.source.groups()}

    def _try(self, owner: Owner, what: str, function: Callable[[Owner], Any]) -> Any:
        try:
            return function(owner)
        except Exception as error:  # whatever a foreign optimizer holds
            self._note(owner.label, what, error)
            return None

    def _note(self, label: str, what: str, why: object) -> None:
        note = f"{label}: {what} was not measured: {why or type(why).__name__}"
        if note not in self.result.notes:
            self.result.notes.append(note)

    # -- after -----------------------------------------------------------------------------

    def take(self) -> None:
        source, result = self.source, self.result
        groups = {group.index: group for group in source.groups()}
        owners = source.owners()
        count, updates = len(owners), source.updates
        result.title = (
            f"{source.name}: {count} parameter{'s' * (count != 1)}, "
            f"{updates} update{'s' * (updates != 1)}"
        )
        given = _by_label(owners, self.grads)
        survey = Survey()
        ones = [self._begin(owner, groups.get(owner.group), given) for owner in owners]
        for one in ones:
            self._ask(one, survey)
        self._run(survey, ones)
        present = {cell.full for one in ones for cell in one.cells if cell.value is not None}
        for one in ones:
            self._fill(one, present)
            result._found[one.owner.label] = one.row
        for part in _parts(source):
            self._count([one for one in ones if one.source is part])
        if self.counts:
            result.updates = max((one.inside or 0 for one in ones), default=0)
        result.flags = sorted(flags_of(ones), key=lambda one: KINDS.index(one.kind))
        still = sum(not one.trainable for one in ones)
        if still:
            result.notes.append(
                f"{still} parameter{'s are' if still != 1 else ' is'} frozen "
                "(requires_grad is False)"
            )

    def _count(self, ones: Sequence[Looked]) -> None:
        """The updates that the optimizer of some parameters made, in all and in the block."""
        moved = any(one.row.update_norm for one in ones)
        for one in ones:
            one.updates, count = cast(Source, one.source).updates, self.counts.get(id(one.source))
            if count is not None:
                one.inside = count.inside(moved)
                one.updates = max(one.updates, one.inside)
        if moved:
            self._doubt_gradients(ones)

    def _begin(self, owner: Owner, group: Group | None, given: Mapping[str, Any] | None) -> Looked:
        source, label = self.source, owner.label
        array = self._try(owner, "parameter", source.array)
        cells = self._try(owner, "state", source.cells) or []
        grad = self._try(owner, "gradient", source.gradient)
        if grad is None:
            grad = self.before_grads.get(label)
        known = given is not None or _keeps_gradients(array)
        if given is not None and given.get(label) is not None:
            grad = given[label]
        row = ParameterStatistics(owner.name, group.name if group is not None else "")
        row.grad_missing = known and grad is None
        if array is not None:
            with suppress(Exception):
                row.shape = tuple(int(one) for one in array.shape)
                row.numbers = math.prod(row.shape)
                row.dtype = _dtype(array)
                row.bytes = _bytes(array) + sum(_bytes(cell.value) for cell in cells)
        rates = value_of(group, "learning_rate"), self.rates_before.get(owner.group)
        one = Looked(owner, row, group, array, grad, cells, source=source)
        if hasattr(source, "sources"):
            one.source = owner.parameter[0]
        one.rates = tuple(rate for rate in rates if rate is not None)
        return one

    def _ask(self, one: Looked, survey: Survey) -> None:
        """Name what of a parameter is to be measured."""
        label, old = one.owner.label, self.before.get(one.owner.label)
        if one.array is None:
            return
        grad = one.grad
        if grad is not None and _shape(grad) != one.row.shape:
            self._note(label, "gradient", f"it has shape {_shape(grad)}")
            grad = None
        if old is not None and _shape(old) == one.row.shape:
            one.parameter = survey.change(one.array, old, grad)
        else:
            one.parameter = survey.squares(one.array)
            one.gradient = survey.squares(grad) if grad is not None else None
        self._prepare_rate(one)
        for cell in one.cells:
            if cell.value is None or cell.full == STEP or isinstance(cell.value, (int, float)):
                continue
            if not _measurable(cell.value):
                self._note(label, cell.full, f"it is {_kind(cell.value)}")
                continue
            limit = -1.0
            if cell.full == one.second and one.rate is not None and one.rate[1] > 0:
                limit = one.rate[1] ** 2 * one.rate[2]
            one.slots[cell.full] = survey.squares(cell.value, limit, cell.full == one.second)

    def _prepare_rate(self, one: Looked) -> None:
        """Where the rule divides its rate by the root of a second moment: by which, and how."""
        rate = value_of(one.group, "learning_rate")
        held = {cell.full: cell.value for cell in one.cells if cell.value is not None}
        if rate is None:
            return
        one.row.rate_quantiles = (rate,) * 5
        names = [name for name in ("max_second_moment", "second_moment") if name in held]
        if not names or "update_moment" in held:  # Adadelta's step has another numerator
            return
        if _shape(held[names[0]]) != one.row.shape or not _measurable(held[names[0]]):
            return
        beta2, correction = value_of(one.group, "beta2"), 1.0
        step = count_of(held.get(STEP)) if STEP in held else float(self.source.updates)
        if beta2 is not None and 0 <= beta2 < 1 and step is not None and step >= 1:
            correction = -math.expm1(step * math.log(beta2)) if beta2 > 0 else 1.0
        one.second = names[0]
        one.rate = rate, value_of(one.group, "epsilon") or 0.0, correction

    def _run(self, survey: Survey, ones: Sequence[Looked]) -> None:
        survey.run(_threads([one.array for one in ones]))
        for label, what, error in self._failures(survey, ones):
            self._note(label, what, error)

    def _failures(
        self, survey: Survey, ones: Sequence[Looked]
    ) -> Iterator[tuple[str, str, Exception]]:
        """What could not be measured; it is taken away from what is told."""
        failed = {id(result): error for result, error in survey.failed}
        for one in ones:
            label = one.owner.label
            if id(one.parameter) in failed:
                yield label, "parameter", failed[id(one.parameter)]
                one.parameter = None
            if id(one.gradient) in failed:
                yield label, "gradient", failed[id(one.gradient)]
                one.gradient = None
            for full in [full for full, held in one.slots.items() if id(held) in failed]:
                yield label, full, failed[id(one.slots.pop(full))]

    def _fill(self, one: Looked, present: set[str]) -> None:
        row, found = one.row, one.parameter
        if found is not None:
            row.norm = found.norm
            row.nonfinite["parameter"] = found.nonfinite
        if isinstance(found, Change):
            row.update_norm, row.cosine, row.grad_norm = (
                found.update_norm, found.cosine, found.grad_norm,
            )  # fmt: skip
            row.update_ratio = found.update_norm / found.norm if found.norm else None
            if found.grad_norm is not None:
                row.nonfinite["gradient"] = found.grad_nonfinite
        elif one.gradient is not None:
            row.grad_norm = one.gradient.norm
            row.nonfinite["gradient"] = one.gradient.nonfinite
        for full, held in one.slots.items():
            row.slots[full], row.nonfinite[full] = held.norm, held.nonfinite
            if self.source.updates and held.norm == 0 and row.numbers:
                row.untouched.append(full)
        if self.source.updates and not one.state:
            row.untouched += [c.full for c in one.cells if c.full in present - {STEP}]
        row.nonfinite = {where: count for where, count in row.nonfinite.items() if count}
        second = one.slots.get(one.second)
        if one.rate is not None and second is not None:
            row.rate_quantiles = quantiles_of_rate(second.sample, *one.rate)
            elements = row.numbers * (2 if "complex" in row.dtype else 1)
            if one.rate[1] > 0 and elements:
                row.epsilon_share = second.below / elements

    def _doubt_gradients(self, ones: Sequence[Looked]) -> None:
        """Gradients that are all zero after a change were cleared in the block."""
        known = [one for one in ones if one.row.grad_norm is not None]
        if not known or any(one.row.grad_norm for one in known):
            return
        for one in known:
            one.row.grad_norm = one.row.cosine = None
        note = (
            "all gradients are zero after the block: it cleared them in place, so they are not "
            "known; clear them before the block, or with zero_grad(set_to_none=True)"
        )
        if note not in self.result.notes:
            self.result.notes.append(note)


def _threads(arrays: Sequence[Any]) -> int:
    """As many as the framework uses."""
    torch = sys.modules.get("torch")
    if torch is not None and any(hasattr(array, "data_ptr") for array in arrays):
        return int(torch.get_num_threads())
    return pool_threads()


def _by_label(owners: Sequence[Owner], grads: Any) -> dict[str, Any] | None:
    """Gradients by label, from a mapping or in the parameters' order; None: none were given."""
    if grads is None:
        return None
    if not isinstance(grads, Mapping):
        return {owner.label: grad for owner, grad in zip(owners, grads, strict=True)}
    unknown = set(grads) - {owner.label for owner in owners} - {owner.name for owner in owners}
    if unknown:
        raise ValueError(
            f"grads has {min(unknown)!r}: no parameter of that name "
            f"(parameters: {', '.join(owner.label for owner in owners)})"
        )
    return {owner.label: grads.get(owner.label, grads.get(owner.name)) for owner in owners}


def _keeps_gradients(array: Any) -> bool:
    return hasattr(array, "requires_grad")


def _shape(array: Any) -> tuple[int, ...]:
    with suppress(Exception):
        return tuple(int(one) for one in array.shape)
    return ()


def _dtype(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2]


def _kind(value: Any) -> str:
    with suppress(Exception):
        return f"an array of {_dtype(value)}"
    return f"of type {type(value).__name__}"


def _measurable(value: Any) -> bool:
    """Whether a piece of state is an array of real or complex numbers; codes are none."""
    with suppress(Exception):
        return hasattr(value, "shape") and any(
            kind in _dtype(value) for kind in ("float", "complex", "double", "half")
        )
    return False


def _bytes(array: Any) -> int:
    with suppress(Exception):
        return int(array.nbytes)
    return 0
