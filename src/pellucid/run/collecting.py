"""All hyperparameters of a run in one record: `collect`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

from pellucid.run.constructed import BadArgument
from pellucid.run.constructors import add_arguments
from pellucid.run.plain import class_name, is_array
from pellucid.run.record import Findings, Record

__all__ = ["collect"]

NO_MODEL = (bool, int, float, complex, str, bytes, list, tuple, set)


def collect(
    model: Any = None,
    optimizer: Any = None,
    data: Any = None,
    loss: Any = None,
    scheduler: Any = None,
    trainer: Any = None,
    **loop: Any,
) -> Record:
    """All hyperparameters of a run, each with where it comes from.

    Every argument is optional. A compiled Keras model, or a trainer, gives what it holds where
    that is not given: its optimizer, loss and scheduler; and what the model was compiled with, and
    `fit` was given where `pellucid.keras.HyperparameterLogger` watched it, is the trainer's. What
    cannot be captured is listed in the record's ``missing``.

    Args:
        model: of Keras, torch, flax nnx, equinox or scikit-learn.
        optimizer: what `pellucid.view` takes, or a list of several; of optax ``(tx, state)``.
        data: loaders, pipelines or arrays, or a mapping from name to them.
        loss: a function, an object of a framework, or a name.
        scheduler: of torch or timm, a schedule, or a list of several.
        trainer: Lightning's, Hugging Face's, Accelerate's; a Keras model or callbacks.
        loop: whatever else counts, by name: ``epochs=10, seed=3``.

    Raises:
        TypeError: an argument is nothing of that kind; says what is allowed.

    >>> import numpy, pellucid, pellucid.numpy
    >>> optimizer = pellucid.numpy.Optimizer({"weight": numpy.ones(2)}, pellucid.SGD(0.1))
    >>> record = collect(optimizer=optimizer, epochs=3)
    >>> record["optimizer/groups/group 0/learning_rate"], record["loop/epochs"]
    (0.1, 3)
    """
    findings = Findings()
    if trainer is None and _is_compiled(model):
        trainer = model
    optimizer, loss, scheduler = _completed(model, optimizer, loss, scheduler, trainer)
    sections: tuple[tuple[str, Any, Callable[[Findings], None]], ...] = (
        ("model", model, lambda at: _find_model(at, model)),
        ("optimizer", optimizer, lambda at: _find_optimizer(at, optimizer, model, scheduler)),
        ("scheduler", scheduler, lambda at: _find_scheduler(at, scheduler)),
        ("data", data, lambda at: _find_data(at, data)),
        ("loss", loss, lambda at: _find_loss(at, loss)),
        ("trainer", trainer, lambda at: _find_trainer(at, trainer)),
        ("loop", loop or None, lambda at: _find_loop(at, loop)),
        ("environment", True, _find_environment),
        ("functions", True, _find_functions),
    )
    for name, given, find in sections:
        if given is None:
            continue
        try:
            find(findings.at(name))
        except BadArgument:
            raise
        except Exception as error:  # one section's fault loses none of the others
            findings.miss(name, f"reading it failed: {type(error).__name__}: {error!s:.300}")
    return findings.record(datetime.datetime.now().astimezone().isoformat(timespec="seconds"))


def _is_compiled(model: Any) -> bool:
    """Whether a model is one of Keras's, and compiled: then it is its own trainer."""
    try:
        return getattr(model, "compiled", False) is True and hasattr(model, "get_compile_config")
    except Exception:
        return False


def _completed(
    model: Any, optimizer: Any, loss: Any, scheduler: Any, trainer: Any
) -> tuple[Any, Any, Any]:
    """The optimizer, loss and scheduler; of the trainer or the model where none was given."""
    from pellucid.run.trainers import given_by

    for holder in (trainer, model):
        if holder is None:
            continue
        try:
            given = given_by(holder)
        except Exception:  # a stranger's property: the section says so
            continue
        optimizer = given.optimizer if optimizer is None else optimizer
        loss = given.loss if loss is None else loss
        scheduler = given.scheduler if scheduler is None else scheduler
    return optimizer, loss, scheduler


# -- sections ----------------------------------------------------------------------------------


def _find_model(findings: Findings, model: Any) -> None:
    if isinstance(model, NO_MODEL) or is_array(model):
        raise BadArgument(
            f"model is {class_name(model)}; allowed is a model of Keras, torch, flax nnx, equinox "
            "or scikit-learn"
        )
    if isinstance(model, Mapping):  # parameters by name, as an optimizer of arrays has them
        findings.add("parameters", sum(_size(one) for one in model.values()))
        findings.add("shapes", {str(name): list(one.shape) for name, one in model.items()})
        return
    from pellucid.run.models import find_model

    find_model(findings, model)


def _size(array: Any) -> int:
    size = 1
    for length in array.shape:
        size *= int(length)
    return size


def _find_optimizer(findings: Findings, optimizer: Any, model: Any, scheduler: Any) -> None:
    from pellucid.run.optimizers import find_optimizer

    find_optimizer(findings, optimizer, model, scheduler)


def _find_scheduler(findings: Findings, scheduler: Any) -> None:
    from pellucid.run.schedulers import find_scheduler

    find_scheduler(findings, scheduler)


def _find_data(findings: Findings, data: Any) -> None:
    from pellucid.run.data import find_data

    find_data(findings, data)


def _find_loss(findings: Findings, loss: Any) -> None:
    """A loss: its name, its function's place, or its class and arguments; of several, each."""
    if isinstance(loss, Mapping):
        for name, one in loss.items():
            _find_loss(findings.at(str(name)), one)
        return
    if isinstance(loss, (list, tuple)):
        for number, one in enumerate(loss):
            _find_loss(findings.at(str(number)), one)
        return
    if loss is None:
        return
    if isinstance(loss, str):
        findings.add("", loss)
        return
    if isinstance(loss, type) or not callable(loss):
        raise BadArgument(
            f"loss is {class_name(loss)}; allowed is a function, an object that is called, a name, "
            "or a list or mapping of these"
        )
    if hasattr(loss, "__code__"):
        findings.add("", loss)
        return
    config = getattr(loss, "get_config", None)
    if callable(config):
        findings.add("class", class_name(loss))
        for name, value in dict(config()).items():
            findings.add(name, value, "observed", f"{type(loss).__name__}.get_config()")
        for name, value in dict(getattr(loss, "_fn_kwargs", None) or {}).items():
            findings.add(name, value, "observed", f"{type(loss).__name__}({name})")
        return  # Keras's Huber has no delta in its configuration
    add_arguments(findings, loss, skip=("size_average", "reduce"))  # of old versions


def _find_trainer(findings: Findings, trainer: Any) -> None:
    from pellucid.run.trainers import find_trainer

    find_trainer(findings, trainer)


def _find_loop(findings: Findings, loop: Mapping[str, Any]) -> None:
    for name, value in loop.items():
        findings.add(name, value, "declared", "an argument of collect")


def _find_environment(findings: Findings) -> None:
    from pellucid.run.environment import find_environment

    find_environment(findings)


def _find_functions(findings: Findings) -> None:
    """Arguments of functions under `pellucid.capture`."""
    from pellucid.run.capturing import captured_functions

    for name, arguments in captured_functions().items():
        at = findings.at(name)
        for key, value in arguments.values.items():
            given = key in arguments.given
            at.add(key, value, "declared" if given else "default", f"an argument of {name}")
