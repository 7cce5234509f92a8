"""Schedulers of torch and timm, and schedules that stand alone: what they are and will give."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pellucid.run.constructed import BadArgument, is_setting
from pellucid.run.constructors import add_arguments
from pellucid.run.curves import Uncalled, curve_of, is_schedule, loud
from pellucid.run.plain import class_name

if TYPE_CHECKING:
    from pellucid.run.record import Findings

__all__ = ["add_schedule", "find_scheduler"]

LENGTH = 100  # of a scheduler's curve
WORK = 4000  # numbers of a curve of many groups
INNER = ("_schedulers", "schedulers")
HELD = ("base_lrs", "last_epoch", "base_values", "milestones", "metric", "warmup_t")
LISTS = ("lr_lambda", "min_lr", "max_lr")  # kept as a list of each group's
SKIPPED = ("optimizer", "schedulers", "verbose", "last_epoch", "base_lr")
CONFIG = ("interval", "frequency", "monitor", "strict", "name", "reduce_on_plateau")
PLATEAU = "it depends on the metric that step() is given"


def find_scheduler(findings: Findings, scheduler: Any) -> None:
    """Keep a scheduler's class, arguments, and the rates that it will give.

    Args:
        scheduler: of torch or timm, also wrapped; a Lightning configuration (a dict or
            dataclass with ``scheduler``), a schedule, a function of the step, or several.
    """
    if isinstance(scheduler, (list, tuple)) and not hasattr(scheduler, "_fields"):
        if len(scheduler) == 1:
            return find_scheduler(findings, scheduler[0])
        for number, one in enumerate(scheduler):
            find_scheduler(findings.at(str(number)), one)
        return None
    if isinstance(scheduler, Mapping) and "scheduler" in scheduler:
        _configured(findings, scheduler)
        scheduler = scheduler["scheduler"]
    elif type(scheduler).__name__ == "LRSchedulerConfig":
        _configured(findings, vars(scheduler))
        scheduler = scheduler.scheduler
    elif hasattr(getattr(scheduler, "scheduler", None), "optimizer"):  # Accelerate's
        scheduler = scheduler.scheduler
    if hasattr(scheduler, "optimizer") and hasattr(scheduler, "step"):
        _identity(findings, scheduler)
        _add_curve(findings, scheduler)
    elif is_schedule(scheduler) or (callable(scheduler) and not isinstance(scheduler, type)):
        findings.add("class", class_name(scheduler))
        add_schedule(findings, scheduler)
    else:
        raise BadArgument(
            f"scheduler is {class_name(scheduler)}; allowed is a scheduler of torch or timm (it "
            "has an optimizer and step()), a schedule, a function of the step, or a list of them"
        )
    return None


def add_schedule(findings: Findings, driver: Any, config: Any = None) -> None:
    """Keep a schedule's identity and arguments under ``config``, and its ``curve``."""
    findings.add("config", driver if config is None else config)
    try:
        findings.add("curve", curve_of(driver))
    except Uncalled as error:
        findings.miss("curve", str(error))


def _configured(findings: Findings, config: Mapping[str, Any]) -> None:
    for key in CONFIG:
        if key in config and is_setting(config[key]) and config[key] is not None:
            findings.add(key, config[key], "observed", f"the scheduler's configuration, {key}")


def _inner(scheduler: Any) -> list[Any]:
    """The schedulers of a chained one."""
    for name in INNER:
        found = getattr(scheduler, name, None)
        if isinstance(found, (list, tuple)):
            return list(found)
    return []


def _identity(findings: Findings, scheduler: Any) -> None:
    kind = type(scheduler).__name__
    findings.add("class", class_name(scheduler))
    lists = [name for name in LISTS if isinstance(getattr(scheduler, f"{name}s", None), list)]
    for name in lists:
        values = getattr(scheduler, f"{name}s")
        value = values[0] if len(values) == 1 else values
        findings.add(name, value, "observed", f"{kind}.{name}s")
    add_arguments(findings, scheduler, skip=(*SKIPPED, *lists))
    for name in (*HELD, "_milestones"):
        value = getattr(scheduler, name, None)
        if value is not None and is_setting(value):
            findings.add(name.strip("_"), value, "observed", f"{kind}.{name}")
    for number, one in enumerate(_inner(scheduler)):
        _identity(findings.at(f"schedulers/{number}"), one)


# -- what it will give -------------------------------------------------------------------------


def _add_curve(findings: Findings, scheduler: Any) -> None:
    try:
        rates = _timm_rates(scheduler) if hasattr(scheduler, "base_values") else _rates(scheduler)
    except Uncalled as error:
        findings.miss("curve", str(error))
        return
    except Exception as error:  # a stranger's scheduler may do anything with a dummy optimizer
        findings.miss("curve", f"it cannot be sampled: {type(error).__name__}: {error}")
        return
    steps = list(range(len(rates)))
    names = _names(scheduler.optimizer)
    for number, name in enumerate(names):
        values = [row[number] for row in rates]
        path = "curve" if len(names) == 1 else f"curve/{name}"
        findings.add(path, {"steps": steps, "values": values})


def _names(optimizer: Any) -> list[str]:
    from pellucid.access.writing import labels

    return labels([group.get("name") for group in optimizer.param_groups])


def _length(groups: int) -> int:
    return LENGTH if groups * LENGTH <= WORK else max(10, WORK // groups)


def _check(scheduler: Any) -> None:
    """Raise `Uncalled` if a scheduler depends on more than the steps."""
    if "Plateau" in type(scheduler).__name__:
        raise Uncalled(PLATEAU)
    for one in [*(getattr(scheduler, "lr_lambdas", None) or ()), getattr(scheduler, "_anneal", 0)]:
        why = loud(one) if callable(one) and hasattr(one, "__code__") else ""
        if why:
            raise Uncalled(f"its curve is not sampled: {why}")
    for one in _inner(scheduler):
        _check(one)


def _rates(scheduler: Any) -> list[list[float]]:
    """The rates now and after each step, as a copy around a dummy optimizer gives them."""
    _check(scheduler)
    torch = sys.modules["torch"]
    real = scheduler.optimizer
    params = {id(param): None for group in real.param_groups for param in group["params"]}
    dummy = torch.optim.SGD([
        {"params": [torch.zeros(1)],
         **{key: copy.deepcopy(one, dict(params)) for key, one in group.items()
            if key not in ("params", "param_names")}}
        for group in real.param_groups
    ], lr=0.0)  # fmt: skip
    around = {id(real): dummy}
    inside = getattr(real, "optimizer", None)  # of wrapped ones
    if inside is not None:
        around[id(inside)] = dummy
    mine = copy.deepcopy(scheduler, around)
    count = _length(len(dummy.param_groups))
    found = []
    with warnings.catch_warnings():  # of steps of the scheduler without steps of the optimizer
        warnings.simplefilter("ignore")
        for _ in range(count):
            found.append([float(group["lr"]) for group in dummy.param_groups])
            try:
                mine.step()
            except ValueError:  # OneCycleLR is at its end
                break
    return found


def _timm_rates(scheduler: Any) -> list[list[float]]:
    """The rates of epochs or updates from 0; timm's schedulers compute them from the time."""
    if "Plateau" in type(scheduler).__name__:
        raise Uncalled(PLATEAU)
    groups = scheduler.optimizer.param_groups
    scales = [float(group.get("lr_scale", 1.0)) for group in groups]
    found = []
    for time in range(_length(len(groups))):
        values = scheduler._add_noise(scheduler._get_lr(time), time)
        values = list(values) if isinstance(values, (list, tuple)) else [values] * len(groups)
        found.append([float(one) * by for one, by in zip(values, scales, strict=True)])
    return found
