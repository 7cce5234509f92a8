"""How a view writes hyperparameters of our own Keras optimizers: checked, written, put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.access.keras_allowed import allowed_value, check_effect
from pellucid.access.keras_groups import KerasHostGroup, PlannedGroup
from pellucid.access.sources import Assignment, Group
from pellucid.changes import Change
from pellucid.declare import HyperparameterError, Ref, check_value
from pellucid.ops import is_number

if TYPE_CHECKING:
    from pellucid.access.keras_hosted import KerasHostSource

__all__ = ["checked_all", "keep", "write_all"]

SOURCE = "view"
Checked = list[tuple[KerasHostGroup, str, Any]]


# -- checking ------------------------------------------------------------------------------


def checked_all(source: KerasHostSource, assignments: Sequence[Assignment]) -> Checked:
    """Raise unless all may be written; the values as they are to be written."""
    found: Checked = []
    for one in assignments:
        group: Any = one.group
        check = _checked_base if one.full in group.base else _checked
        found.append((group, one.full, check(group, one.full, one.value)))
    groups = source.plain_groups()
    named = {(group.index, full) for group, full, _ in found}
    for group, full, _ in found:
        left = [other for other in groups if (other.index, full) not in named]
        if full in group.base and left:
            raise ValueError(
                f"{group.where(full)} is the whole optimizer's, {left[0].name!r} has it too: set "
                f"{full!r} for all"
            )
        if not source.inner.built:
            _check_branches(group, full, left)
    return found


def _check_branches(group: KerasHostGroup, full: str, left: Sequence[KerasHostGroup]) -> None:
    """Before there are groups, a stage of several branches has one value in all."""
    if isinstance(group, PlannedGroup) or full in group.base:
        return
    setting = group.setting(full)
    for other in left:
        if not isinstance(other, PlannedGroup) and other.holds(full, setting):
            raise ValueError(
                f"{group.where(full)} is shared with {other.name!r} until the optimizer is built: "
                f"set {full!r} for all, or build it first"
            )


def _checked_base(group: KerasHostGroup, full: str, value: Any) -> Any:
    setting, where = group.base[full], group.where(full)
    checked = allowed_value(setting.owner, setting.native, full, setting.raw, value, where)
    check_effect(setting.owner, setting.native, {setting.native: checked}, where)
    if setting.owner is group.leaf.optimizer:
        from pellucid.keras.live import LIVE, live_number

        if full in LIVE:
            return live_number(where, full, checked)
        if setting.owner.built and checked != setting.raw:
            raise ValueError(
                f"{where} is {setting.raw!r} since the optimizer was built and cannot become "
                f"{checked!r}: make another optimizer"
            )
    return checked


def _checked(group: KerasHostGroup, full: str, value: Any) -> Any:
    """A value of the rule's or a stage's."""
    from pellucid.keras.drivers import as_driver, number_of_call
    from pellucid.keras.host_values import plain_number
    from pellucid.keras.hypers import Hyperparameter

    where, pipeline = group.where(full), group.group.pipeline
    if full in pipeline.options:
        return pipeline.options[full][1].check(value, where)
    cell: Any = group.setting(full)
    assert isinstance(cell, Hyperparameter)
    stage, declared = pipeline.hypers[full]
    checked = check_value(declared, as_driver(plain_number(value, cell)), where)
    if isinstance(checked, Ref):
        _check_ref(group, full, pipeline.resolve(stage, checked.name), checked)
    elif not is_number(checked):
        number = number_of_call(checked, cell.count_of(checked, cell.optimizer.updates))
        declared.check(number, f"{where} from {checked!r} at step {cell.optimizer.updates}")
    return checked


def _check_ref(group: KerasHostGroup, full: str, target: str, ref: Ref) -> None:
    """A `ref` names a value that is none."""
    if target == full or isinstance(group.driver(target), Ref):
        raise HyperparameterError(f"{group.where(full)} is {ref!r}, which is itself a ref")
    for other in group.group.cells:
        driver = group.driver(other)
        if isinstance(driver, Ref) and other != full:
            stage, _ = group.group.pipeline.hypers[other]
            if group.group.pipeline.resolve(stage, driver.name) == full:
                raise HyperparameterError(
                    f"{group.where(full)} is {ref!r}; {other!r} is a ref to it, and may not be "
                    "one to a ref"
                )


# -- writing -------------------------------------------------------------------------------


def write_all(source: KerasHostSource, checked: Checked, reason: str) -> None:
    """Write all; who shares a value that is not named keeps the old one."""
    named = {(group.index, full) for group, full, _ in checked}
    done: set[tuple[int, str]] = set()
    for group, full, value in checked:
        if full in group.base:
            if (0, full) not in done:
                _write_base(source, group, full, value, reason)
            done.add((0, full))
            continue
        others = [one for one in source.plain_groups() if (one.index, full) not in named]
        if isinstance(group, PlannedGroup):
            setting = group.setting(full)
            shared = group.holds(full, setting) and (id(setting), full) in done
            if not shared:
                group.give(full, value)
            continue
        setting = group.setting(full)
        if (id(setting), full) in done:
            continue
        sharing = [one for one in others if one.holds(full, setting)]
        if sharing and source.inner.built:
            _give_own(source, group, full, value, reason)
            continue
        for one in sharing:  # patterns that have nothing of their own go on with the old value
            assert isinstance(one, PlannedGroup)
            driver = one.driver(full)
            one.give(full, one.value(full) if driver is None else driver)
        setting.set(value, SOURCE, reason)
        done.add((id(setting), full))


def _give_own(
    source: KerasHostSource, group: KerasHostGroup, full: str, value: Any, reason: str
) -> None:
    from pellucid.keras.regroup import own_value

    own_value(source.inner, group.group, full, value, SOURCE, reason)


def _write_base(
    source: KerasHostSource, group: KerasHostGroup, full: str, value: Any, reason: str
) -> None:
    """Write one of Keras's own settings, and have compiled steps made anew."""
    setting, inner = group.base[full], source.inner
    old = setting.value
    if old == value and type(old) is type(value):
        return
    if setting.owner is inner:
        from pellucid.keras.live import LIVE

        if full in LIVE:
            inner._set_live(full, value, SOURCE, reason)
        else:
            setattr(inner, full, value)
        return
    from pellucid.keras.trainers import rebuild

    if setting.write(value):
        rebuild(source.optimizer)
    for one in inner.core.groups:
        inner.history.record(
            Change(source.updates + 1, one.label, full, old, setting.value, SOURCE, reason)
        )


# -- putting back --------------------------------------------------------------------------


def keep(
    source: KerasHostSource, targets: Sequence[tuple[Group, str]]
) -> Callable[[str], None]:
    """Remember values, what drives them and who shares them; the function puts them back."""
    kept: list[Callable[[str], None]] = []
    for given, full in targets:
        group: Any = given
        if full in group.base:
            kept.append(_keep_base(source, group, full))
        elif isinstance(group, PlannedGroup):
            kept.append(_keep_planned(source, group, full))
        else:
            kept.append(_keep_own(source, group, full))

    def put_back(reason: str) -> None:
        source.synchronise()
        for one in kept:
            one(reason)

    return put_back


def _keep_base(source: KerasHostSource, group: KerasHostGroup, full: str) -> Callable[[str], None]:
    value = group.base[full].value
    return lambda reason: _write_base(source, group, full, value, reason)


def _state(setting: Any) -> tuple[Any, Any]:
    """What tells whether a setting stands as it did."""
    driver = getattr(setting, "driver", None)
    return driver, None if driver is not None else setting.shown()


def _keep_planned(source: KerasHostSource, group: PlannedGroup, full: str) -> Callable[[str], None]:
    core, pattern, had = source.core, group.pattern, full in group.given
    driver = group.driver(full)
    value = group.value(full) if driver is None else driver

    def put_back(reason: str) -> None:
        own = {key: one for key, one in group.given.items() if key != full}
        core.patterns[pattern] = {**own, full: value} if had else own
        if source.inner.built:  # meanwhile
            for one in source.plain_groups():
                if group.name in one.name.split(" & "):
                    write_all(source, [(one, full, value)], reason)

    return put_back


def _keep_own(source: KerasHostSource, group: KerasHostGroup, full: str) -> Callable[[str], None]:
    setting = group.setting(full)
    state, members = _state(setting), {one.index for one in group.parameters}

    def put_back(reason: str) -> None:
        if not members or not source.inner.built:  # of a branch
            if _state(setting) != state:
                setting.set(state[1] if state[0] is None else state[0], SOURCE, reason)
            return
        for one in source.plain_groups():  # a split may have made several of one
            if members.isdisjoint(own.index for own in one.parameters):
                continue
            _put_one_back(source, one, setting, state, reason)

    return put_back


def _put_one_back(
    source: KerasHostSource, group: KerasHostGroup, setting: Any, state: Any, reason: str
) -> None:
    from pellucid.keras.regroup import share

    now = group.setting(setting.full)
    alike = _state(setting) == state
    core, full = source.core, setting.full
    held = any(one.settings.get(full) is setting for one in [*core.branches, *core.groups])
    if now is not setting and alike and held:
        share(source.inner, group.group, setting, SOURCE, reason)
    elif _state(now) != state:
        value = state[1] if state[0] is None else state[0]
        write_all(source, [(group, setting.full, value)], reason)
