"""Several optimizers as one: what a training loop with two of them has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pellucid.access.rates import driven
from pellucid.access.sources import Assignment, Cell, Group, Owner, Source, source_of
from pellucid.access.writing import labels
from pellucid.changes import Journal
from pellucid.controls import Names
from pellucid.declare import HyperparameterError

__all__ = ["SeveralSource"]


class _Renamed:
    """A group of one of several optimizers."""

    def __init__(self, inner: Group, index: int, optimizer: str, members: Sequence[str]) -> None:
        self.inner, self.index, self.optimizer, self.members = inner, index, optimizer, members
        self.name = f"{optimizer}/{inner.name}"

    @property
    def rule(self) -> str:
        return self.inner.rule

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def names(self) -> Names:
        return self.inner.names

    def raw(self, full: str) -> Any:
        return self.inner.raw(full)

    def value(self, full: str) -> Any:
        return self.inner.value(full)

    def driver(self, full: str) -> Any:
        return self.inner.driver(full)

    def scheduler(self, full: str) -> str:
        return self.inner.scheduler(full)


class SeveralSource:
    """A list of optimizers; see `pellucid.access.sources.Source`."""

    def __init__(self, optimizers: Sequence[Any], model: Any = None, scheduler: Any = None) -> None:
        if not optimizers:
            raise ValueError("view got an empty list; allowed are optimizers")
        self.optimizer = list(optimizers)
        given = _schedulers(scheduler)
        self.sources: list[Source] = []
        for one in optimizers:
            plain = source_of(one)
            own = [some for some in given if driven(some) is plain.optimizer]
            if len(own) > 1:
                raise ValueError(f"scheduler holds {len(own)} for one optimizer: give one for each")
            self.sources.append(source_of(one, model, own[0] if own else None))
            given = [some for some in given if some not in own]
        if given:
            raise ValueError(
                f"scheduler is a {type(given[0]).__name__} of none of these optimizers"
            )
        kinds = [source.name for source in self.sources]
        several = [f"{kind} {kinds[:n].count(kind)}" if kinds.count(kind) > 1 else kind
                   for n, kind in enumerate(kinds)]
        self.labels = labels(several)

    @property
    def name(self) -> str:
        return f"{len(self.sources)} optimizers"

    @property
    def title(self) -> str:
        return ", ".join(
            f"{label}: {source.title}"
            for label, source in zip(self.labels, self.sources, strict=True)
        )

    @property
    def updates(self) -> int:
        return max(source.updates for source in self.sources)

    @property
    def journal(self) -> Journal:
        """The entries of all, each with its optimizer's name; to be read, not written to."""
        entries = []
        for label, source in zip(self.labels, self.sources, strict=True):
            entries += [_of(change, label) for change in source.journal]
        return Journal(sorted(entries, key=lambda change: change.step))

    @property
    def recorded(self) -> Journal | None:
        return self.journal if all(one.recorded is not None for one in self.sources) else None

    def groups(self) -> list[Group]:
        found: list[Group] = []
        members: dict[int, list[str]] = {}
        for owner in self.owners():
            members.setdefault(owner.group, []).append(owner.label)
        for label, source in zip(self.labels, self.sources, strict=True):
            for group in source.groups():
                index = len(found)
                found.append(_Renamed(group, index, label, members.get(index, [])))
        return found

    def owners(self) -> list[Owner]:
        found: list[Owner] = []
        taken: set[str] = set()
        before = 0
        for label, source in zip(self.labels, self.sources, strict=True):
            own = source.owners()
            for owner in own:
                name = f"{label}:{owner.label}" if owner.label in taken else owner.label
                found.append(Owner(name, name, before + owner.group, (source, owner)))
            taken |= {owner.label for owner in own}
            before += len(source.groups())
        return found

    def array(self, owner: Owner) -> Any:
        source, inner = owner.parameter
        return source.array(inner)

    def gradient(self, owner: Owner) -> Any:
        source, inner = owner.parameter
        return source.gradient(inner)

    def cells(self, owner: Owner) -> list[Cell]:
        source, inner = owner.parameter
        return [_moved(cell, owner.label) for cell in source.cells(inner)]

    def shared_cells(self) -> list[Cell]:
        return [
            _moved(cell, label)
            for label, source in zip(self.labels, self.sources, strict=True)
            for cell in source.shared_cells()
        ]

    # -- changing --------------------------------------------------------------------------

    def _parts(
        self, assignments: Sequence[Assignment]
    ) -> list[tuple[str, Source, list[Assignment]]]:
        parts: list[tuple[str, Source, list[Assignment]]] = []
        for label, source in zip(self.labels, self.sources, strict=True):
            own: list[Assignment] = []
            for one in assignments:
                group: Any = one.group
                if group.optimizer == label:
                    own.append(Assignment(group.inner, one.full, one.value))
            if own:
                parts.append((label, source, own))
        return parts

    def check(self, assignments: Sequence[Assignment]) -> None:
        for label, source, own in self._parts(assignments):
            with _naming(label, source):
                source.check(own)

    def set(self, assignments: Sequence[Assignment], reason: str) -> None:
        self.check(assignments)
        for label, source, own in self._parts(assignments):
            with _naming(label, source):
                source.set(own, reason)

    def keep(self, targets: Sequence[tuple[Group, str]]) -> Callable[[str], None]:
        kept = []
        read = [Assignment(group, full, None) for group, full in targets]
        for _, source, own in self._parts(read):
            kept.append(source.keep([(one.group, one.full) for one in own]))

        def put_back(reason: str) -> None:
            for one in kept:
                one(reason)

        return put_back

    def reset(self, owners: Sequence[Owner], full: str | None) -> None:
        for source in self.sources:
            own = [owner.parameter[1] for owner in owners if owner.parameter[0] is source]
            if own:
                source.reset(own, full)

    def split(self, group: Group, members: Sequence[str], label: str) -> None:
        renamed: Any = group
        chosen = {
            owner.parameter[1].label
            for owner in self.owners()
            if owner.group == group.index and owner.label in members
        }
        source = self.sources[self.labels.index(renamed.optimizer)]
        with _naming(renamed.optimizer, source):
            source.split(renamed.inner, sorted(chosen), label)


@contextmanager
def _naming(label: str, source: Source) -> Iterator[None]:
    """Errors name the optimizer, as paths do."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        is_path = any(text.startswith(f"{group.name}/") for group in source.groups())
        kinds = (HyperparameterError, ValueError, TypeError)
        kind = next(one for one in kinds if isinstance(error, one))
        raise kind(f"{label}{'/' if is_path else ': '}{text}") from error


def _schedulers(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _of(change: Any, label: str) -> Any:
    from dataclasses import replace

    return replace(change, group=f"{label}/{change.group}")


def _moved(cell: Cell, owner: str) -> Cell:
    return Cell(owner, cell.full, cell.native, cell.value, cell.absent, cell.put)
