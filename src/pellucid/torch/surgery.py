"""State surgery: parameters resized, replaced, reset, frozen and removed, with their state.

All is checked before anything changes. Learning-rate schedulers go on as before: the groups stay,
also one that has become empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pellucid.declare import Ref
from pellucid.fuse.engine import Entry, slot_kind, slot_shape
from pellucid.fuse.trace import traced_init
from pellucid.storage import CLOCK, SEEN
from pellucid.torch.accumulators import is_held, retire
from pellucid.torch.averages import Averages, averages_in
from pellucid.torch.checks import check_memory, check_param
from pellucid.torch.groups import follow
from pellucid.torch.rows import Rows, rows_of
from pellucid.torch.selecting import one_of, some_of

__all__ = ["Surgery"]


class Surgery(Averages):
    """The part of a torch optimizer that changes parameters together with their state."""

    _frozen: tuple[Any, ...] = ()

    # -- rows ------------------------------------------------------------------------------

    def resize(self, param: Any, keep: Any, *, new: Any = None) -> Any:
        """Keep some rows of a parameter, or append some: of its gradient and its state, too.

        The parameter stays the same object and gets memory of its own: what else looks at the old
        memory (views, NumPy arrays) does not follow, and no more does what a module notes of its
        size (``out_features``). Slots with one value an element or a row lose and gain the same
        rows; those with one value a column, single numbers and the step stay, so that appended
        rows are not updated as in a first step. Appended rows of a slot begin as the slot is
        declared to (an average at the rows' values), of the gradient at 0. Tensors in the state
        that no stage declared count as slots, beginning at 0.

        Args:
            param: the parameter, or its name.
            keep: a mask over rows; or the numbers of the rows that stay, in their new order (a
                row named twice is there twice); or how many rows there are to be, of which
                smaller ones cut off the last rows and larger ones append.
            new: (k, ...), the appended rows; without it they are 0.

        Returns:
            The parameter.

        Raises:
            ValueError, TypeError, KeyError: what is wrong; nothing was changed.
        """
        self._begin("resize()")
        entry = one_of(self.entries, param)
        tensor = entry.param
        self._check_own(entry)
        rows = rows_of(keep, tensor, new, entry.name)
        with torch.no_grad():
            added = 0.0 if new is None else new.detach()
            data = rows.of(tensor, added)
            grad = self._gradient_of(entry, rows)
            state = self._state_of(entry, rows, data[len(rows.kept) :])
            retire(tensor, entry.name)
            tensor.grad = None
            tensor.data = data
            tensor.grad = grad
            if state:
                self.state[tensor].update(state)
        torch.autograd.graph.increment_version(tensor)
        self.forget_plans()
        return tensor

    def _check_own(self, entry: Entry) -> None:
        """Raise where a parameter that gets other memory would come apart from something."""
        param, name = entry.param, entry.name
        check_param(name, param)
        if not param.is_leaf or param._is_view():
            what = "a view of another tensor" if param._is_view() else "computed from others"
            raise ValueError(
                f"{name!r} is {what}, which would not be resized with it: resize what it is made of"
            )
        if type(param.data) is not torch.Tensor:
            raise TypeError(
                f"{name!r} is a {type(param.data).__name__}; allowed are parameters of plain "
                "tensors"
            )
        memory = param.untyped_storage().data_ptr()
        for other in self.entries if memory else ():
            if other is not entry and other.param.untyped_storage().data_ptr() == memory:
                raise ValueError(
                    f"{name!r} shares memory with {other.name!r}, and would no longer: give each "
                    "a tensor of its own, or resize before they are tied"
                )
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and is_held(param):
            raise RuntimeError(
                f"something holds the node of {name!r} at which its gradient arrives, such as "
                "DistributedDataParallel, which would no longer see it: resize the module inside "
                "after deleting the wrapper and the last loss, and wrap it again"
            )

    def _gradient_of(self, entry: Entry, rows: Rows) -> Any:
        grad = entry.param.grad
        if grad is None:
            return None
        if grad.shape != entry.param.shape or grad.requires_grad:
            why = "is part of a graph" if grad.requires_grad else f"has shape {tuple(grad.shape)}"
            raise ValueError(f"the gradient of {entry.name!r} {why}: call zero_grad() first")
        return rows.of_gradient(grad)

    def _state_of(self, entry: Entry, rows: Rows, added: Any) -> dict[str, Any]:
        """What becomes of a parameter's state that has rows, by native name."""
        held = self._held(entry)
        names = self.controls[entry.group].names
        shape = tuple(entry.param.shape)
        later = (rows.count, *shape[1:])
        fills = self._fills(entry, added) if rows.appended and held else {}
        made: dict[str, Any] = {}
        ours = {native: full for full, native in names.slots.items()}
        for native, array in held.items():
            if native not in ours:
                of_rows = isinstance(array, torch.Tensor) and array.dim() == len(shape)
                if of_rows and array.shape in (shape, slot_shape("row", shape)):
                    made[native] = rows.of(array)
                continue
            full = ours[native]
            where = f"slot {full!r} of {entry.name!r}"
            declared = entry.pipeline.slots[full][1]
            kind = slot_kind(declared, shape, where)
            if array is None or kind != slot_kind(declared, later, where):
                raise ValueError(
                    f"{where} has another kind of shape for {later} than for {shape}: call "
                    f"reset({entry.name!r}) first, which begins its state anew"
                )
            check_memory(array, where)
            if tuple(array.shape) != slot_shape(kind, shape):
                raise ValueError(
                    f"{where} has shape {tuple(array.shape)}; expected is {slot_shape(kind, shape)}"
                )
            if kind in ("param", "row"):
                made[native] = rows.of(array, fills.get(full, 0.0))
        return made

    def _fills(self, entry: Entry, added: Any) -> dict[str, Any]:
        """How appended rows of each slot begin."""
        numbers = self.controls[entry.group].read(self.updates).values
        averages = averages_in(entry.pipeline)
        found: dict[str, Any] = {}
        for full, (stage, declared) in entry.pipeline.slots.items():
            init = declared.init
            if declared.scope != "parameter" or self.arrays.get(entry, full) is None:
                continue
            if init == "param" or full in averages:
                found[full] = added
            elif full.endswith(SEEN):  # nothing was missed
                found[full] = self.arrays.get(entry, full.removesuffix(SEEN) + CLOCK)
            elif isinstance(init, Ref):
                found[full] = numbers[entry.pipeline.resolve(stage, init.name)]
            elif not traced_init(declared):
                found[full] = float(init)
            elif init != "grad":  # a first gradient: that of these rows is 0
                raise ValueError(
                    f"slot {full!r} of {entry.name!r} begins at a function of the first gradient, "
                    f"which appended rows have not had: call reset({entry.name!r}) first, which "
                    "begins its state anew"
                )
        return found

    # -- one tensor for another --------------------------------------------------------------

    def replace(self, old: Any, new: Any, *, state: str = "keep") -> Any:
        """Put a tensor into a parameter's place: its group, its name, and its state if wanted.

        Args:
            old: the parameter, or its name.
            new: the tensor that is updated from now on.
            state: ``"keep"``: slots and step become the new one's, as they are, also where its
                type is another; ``"reset"``: it begins without.

        Returns:
            The new parameter.

        Raises:
            ValueError, TypeError, KeyError: what is wrong, such as another shape with
                ``state="keep"``; nothing was changed.
        """
        self._begin("replace()")
        if state not in ("keep", "reset"):
            raise ValueError(f"state is {state!r}; allowed is 'keep' or 'reset'")
        entry = one_of(self.entries, old)
        check_param(f"the new {entry.name}", new)
        taken = next((one.name for one in self.entries if one.param is new), None)
        if taken is not None:
            raise ValueError(f"new is the parameter {taken!r} already: give another tensor")
        kept = self._held(entry) if state == "keep" else {}
        if state == "keep" and new.shape != entry.param.shape:
            raise ValueError(
                f"new has shape {tuple(new.shape)}, {entry.name!r} {tuple(entry.param.shape)}: "
                "its state does not fit; resize() the parameter, or say state='reset'"
            )
        if kept and new.is_complex() != entry.param.is_complex():
            raise ValueError(
                f"new is {new.dtype}, {entry.name!r} {entry.param.dtype}: its state does not fit; "
                "say state='reset'"
            )
        self._put_members(entry.group, [
            new if param is entry.param else param
            for param in self.param_groups[entry.group]["params"]
        ])  # fmt: skip
        self.state.pop(entry.param, None)
        if kept:
            self.state[new] = kept
        self._frozen = tuple(one for one in self._frozen if one is not entry.param)
        entry.param = new
        self.forget_plans()
        return new

    # -- by pattern --------------------------------------------------------------------------

    def reset(self, pattern: Any) -> tuple[str, ...]:
        """Let the state of parameters begin anew, the step included; `View.reset` does slots.

        Args:
            pattern: a pattern of names (``"encoder.*"``), a name, a parameter, a predicate
                ``(name, parameter) -> bool``, or a list of these.

        Returns:
            The names of the parameters.

        Raises:
            KeyError: a pattern matches nothing; the text gives names. Nothing was changed.
        """
        from pellucid.access.hosted import HostSource

        self._begin("reset()")
        chosen = some_of(self.entries, pattern)
        identities = {id(entry) for entry in chosen}
        source = HostSource(self)
        source.reset([one for one in source.owners() if id(one.parameter) in identities], None)
        return tuple(entry.name for entry in chosen)

    def freeze(self, pattern: Any) -> tuple[str, ...]:
        """Leave parameters alone until `unfreeze`; state and step stay, the gradient is dropped.

        They no longer require gradients. Those that did not before are not this method's, and
        `unfreeze` leaves them so. As ``requires_grad``, it is no part of a state dict: after
        loading into a new optimizer, freeze again.

        Args:
            pattern: as in `reset`.

        Returns:
            The names of those that are frozen by this call.

        Raises:
            KeyError: as in `reset`.
            ValueError: a parameter is computed from others.
        """
        self._begin("freeze()")
        chosen = [one for one in some_of(self.entries, pattern) if one.param.requires_grad]
        for entry in chosen:
            if not entry.param.is_leaf:
                raise ValueError(f"{entry.name!r} is computed from others: freeze those")
        known = {id(param) for param in self._frozen}
        for entry in chosen:
            entry.param.requires_grad_(False)
            entry.param.grad = None
        self._frozen += tuple(e.param for e in chosen if id(e.param) not in known)
        return tuple(entry.name for entry in chosen)

    def unfreeze(self, pattern: Any) -> tuple[str, ...]:
        """Go on with parameters that `freeze` left alone, from where their state is.

        Args:
            pattern: as in `reset`.

        Returns:
            The names of those that are updated again.

        Raises:
            KeyError: as in `reset`.
            ValueError: none of them was frozen by `freeze`.
        """
        self._begin("unfreeze()")
        matched = some_of(self.entries, pattern)
        frozen = {id(param) for param in self._frozen}
        chosen = [entry for entry in matched if id(entry.param) in frozen]
        if not chosen:
            names = ", ".join(entry.name for entry in matched[:8])
            raise ValueError(
                f"unfreeze({pattern!r}): freeze() froze none of {names}; what did not require a "
                "gradient from the start stays so: call its requires_grad_(True)"
            )
        gone = {id(entry.param) for entry in chosen}
        for entry in chosen:
            entry.param.requires_grad_(True)
        self._frozen = tuple(param for param in self._frozen if id(param) not in gone)
        return tuple(entry.name for entry in chosen)

    def remove(self, pattern: Any) -> tuple[str, ...]:
        """Take parameters out of the groups and out of the state; the tensors stay as they are.

        A group may become empty: it stays, since schedulers count the groups.

        Args:
            pattern: as in `reset`.

        Returns:
            The names of the parameters that were removed.

        Raises:
            KeyError: as in `reset`.
        """
        self._begin("remove()")
        chosen = some_of(self.entries, pattern)
        gone = {id(entry.param) for entry in chosen}
        for number, group in enumerate(self.param_groups):
            stay = [n for n, param in enumerate(group["params"]) if id(param) not in gone]
            named = group.get("param_names")
            if named is not None and len(named) == len(group["params"]):
                group["param_names"] = [named[n] for n in stay]
            self._put_members(number, [group["params"][n] for n in stay])
        for entry in chosen:
            self.state.pop(entry.param, None)
        left = [entry for entry in self.entries if id(entry.param) not in gone]
        self.entries[:] = [replace(entry, index=n) for n, entry in enumerate(left)]
        self._frozen = tuple(param for param in self._frozen if id(param) not in gone)
        self._counters.clear()
        self.forget_plans()
        return tuple(entry.name for entry in chosen)

    # -- what they share ---------------------------------------------------------------------

    def _begin(self, what: str) -> None:
        self.check_unswapped(what)
        follow(self)

    def _held(self, entry: Entry) -> Mapping[str, Any]:
        held = self.state.get(entry.param, {})
        if not isinstance(held, dict):
            raise TypeError(
                f"the state of {entry.name!r} is {type(held).__name__}; allowed is a dict"
            )
        return held

    def _put_members(self, number: int, members: list[Any]) -> None:
        group = self.param_groups[number]
        if isinstance(group["params"], list):
            group["params"][:] = members
        else:
            group["params"] = members

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "frozen": self._frozen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        frozen = state.pop("frozen", self._frozen)
        super().__setstate__(state)
        self._frozen = frozen
