"""What runs the training loop: Lightning's, Hugging Face's and Keras's trainers, Accelerate."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.run.constructed import (
    NOTHING,
    BadArgument,
    defaults_of,
    is_setting,
    provenance,
)
from pellucid.run.constructors import add_arguments
from pellucid.run.plain import class_name

if TYPE_CHECKING:
    from pellucid.run.record import Findings

__all__ = ["Given", "find_trainer", "given_by"]


def find_trainer(findings: Findings, trainer: Any) -> None:
    """Keep what a trainer is set to.

    Args:
        trainer: Lightning's Trainer, Hugging Face's Trainer or TrainingArguments, Accelerate's
            Accelerator, a compiled Keras model, or a list of Keras's callbacks.

    Raises:
        BadArgument: it is none of these.
    """
    for holds, find in KINDS:
        if holds(trainer):
            find(findings, trainer)
            return
    raise BadArgument(
        f"trainer is {class_name(trainer)}; allowed is Lightning's Trainer, Hugging Face's Trainer "
        "or TrainingArguments, Accelerate's Accelerator, a Keras model, or a list of callbacks"
    )


@dataclasses.dataclass(frozen=True)
class Given:
    """What a trainer holds besides, for the sections that nobody gave."""

    optimizer: Any = None
    loss: Any = None
    scheduler: Any = None
    model: Any = None


def given_by(trainer: Any) -> Given:
    """What a trainer, or a compiled Keras model, holds besides."""
    if _is_keras_model(trainer):
        if not getattr(trainer, "compiled", False):
            return Given()
        return Given(getattr(trainer, "optimizer", None), getattr(trainer, "loss", None))
    if _is_lightning(trainer):
        schedulers = list(getattr(trainer, "lr_scheduler_configs", None) or ())
        optimizers = list(getattr(trainer, "optimizers", None) or ())
        module = getattr(trainer, "lightning_module", None)
        return Given(_one(optimizers), None, _one(schedulers), module)
    if _is_hugging_face(trainer):
        return Given(
            trainer.optimizer, getattr(trainer, "compute_loss_func", None), trainer.lr_scheduler,
            trainer.model,
        )  # fmt: skip
    return Given()


def _one(found: list[Any]) -> Any:
    """None of an empty list, the only one of a list of one."""
    return found if len(found) > 1 else found[0] if found else None


def _named(one: Any, name: str, *packages: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] in packages
        for base in type(one).__mro__
    )


# -- Lightning ---------------------------------------------------------------------------------

LIGHTNING: tuple[str, ...] = (
    "max_epochs", "min_epochs", "max_steps", "min_steps", "accumulate_grad_batches", "precision",
    "gradient_clip_val", "gradient_clip_algorithm", "num_nodes", "val_check_interval",
    "check_val_every_n_epoch", "limit_train_batches", "limit_val_batches", "limit_test_batches",
    "overfit_batches", "num_sanity_val_steps", "log_every_n_steps", "fast_dev_run",
    "sync_batchnorm", "reload_dataloaders_every_n_epochs", "barebones",
)  # fmt: skip
"""Arguments of Lightning's Trainer that are attributes of it, or of its connector."""


def _is_lightning(trainer: Any) -> bool:
    return _named(trainer, "Trainer", "lightning", "pytorch_lightning")


def _find_lightning(findings: Findings, trainer: Any) -> None:
    findings.add("class", class_name(trainer))
    defaults = defaults_of(type(trainer))
    connector = getattr(trainer, "_accelerator_connector", None)
    for name in LIGHTNING:
        value = _first(name, trainer, connector)
        if value is not NOTHING and is_setting(value):
            kind = provenance(value, defaults.get(name, NOTHING))
            findings.add(name, value, kind, f"Trainer.{name}")
    torch = sys.modules["torch"]
    for name, value in (
        ("deterministic", torch.are_deterministic_algorithms_enabled()),
        ("benchmark", torch.backends.cudnn.benchmark),
    ):  # the trainer hands these to torch, and keeps none
        findings.add(name, value, provenance(value, False), "torch's flag")
    findings.add("devices", trainer.num_devices, "observed", "Trainer.num_devices")
    findings.add("accelerator", class_name(trainer.accelerator), "observed", "Trainer.accelerator")
    findings.add("strategy", class_name(trainer.strategy), "observed", "Trainer.strategy")
    duration = getattr(trainer, "_max_time", None)
    if duration is not None:
        findings.add("max_time", duration)
    _find_callbacks(findings.at("callbacks"), trainer.callbacks)


def _first(name: str, *holders: Any) -> Any:
    for holder in holders:
        try:
            return getattr(holder, name)
        except Exception:  # not there, or a property that needs a running loop
            continue
    return NOTHING


def _find_callbacks(findings: Findings, callbacks: Sequence[Any]) -> None:
    """Each callback's class and arguments, by its class; of one class numbered."""
    taken: dict[str, int] = {}
    for one in callbacks:
        name = type(one).__name__
        count = taken[name] = taken.get(name, 0) + 1
        at = findings.at(name if count == 1 else f"{name} {count}")
        add_arguments(at, one, skip=("model", "trainer"))


# -- Hugging Face ------------------------------------------------------------------------------

UNINTERESTING = frozenset(["output_dir", "logging_dir", "run_name", "local_rank"])
"""Arguments that name a place or a process: kept, but never as a default."""


def _is_hugging_face(trainer: Any) -> bool:
    return _named(trainer, "Trainer", "transformers")


def _find_hugging_face(findings: Findings, trainer: Any) -> None:
    findings.add("class", class_name(trainer))
    _arguments(findings, trainer.args)
    size = getattr(trainer, "_train_batch_size", None) or trainer.args.train_batch_size
    findings.add("train_batch_size", size, "observed", "Trainer._train_batch_size")
    _total(findings, trainer, size)
    handler = getattr(trainer, "callback_handler", None)
    _find_callbacks(findings.at("callbacks"), getattr(handler, "callbacks", ()))


def _find_arguments(findings: Findings, arguments: Any) -> None:
    findings.add("class", class_name(arguments))
    _arguments(findings, arguments)
    findings.add("train_batch_size", arguments.train_batch_size, "observed",
                 "TrainingArguments.train_batch_size")  # fmt: skip


def _arguments(findings: Findings, arguments: Any) -> None:
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name, None)
        default: Any = field.default
        if default is dataclasses.MISSING:
            made: Any = field.default_factory
            default = NOTHING if made is dataclasses.MISSING else made()
        kind = provenance(value, default)
        if kind == "observed" and _same_choice(value, default):
            kind = "default"
        findings.add(f"arguments/{field.name}", value,
                     "observed" if field.name in UNINTERESTING else kind,
                     f"TrainingArguments.{field.name}")  # fmt: skip


def _same_choice(value: Any, default: Any) -> bool:
    """Whether an enumeration's member stands for the default's text, or the other way."""
    texts = {str(getattr(one, "value", one)) for one in (value, default)}
    return len(texts) == 1 and hasattr(value, "value")


def _total(findings: Findings, trainer: Any, size: int) -> None:
    """The updates of the whole training, as the trainer counts them."""
    arguments, state = trainer.args, trainer.state
    if state.max_steps > 0:
        findings.add("total_steps", state.max_steps, "observed", "Trainer.state.max_steps")
        return
    if arguments.max_steps > 0:
        findings.add("total_steps", arguments.max_steps, "observed", "TrainingArguments.max_steps")
        return
    try:
        length = len(trainer.train_dataset)
    except TypeError:
        findings.miss("total_steps", "the training set tells no length")
        return
    count = length / (size * arguments.world_size)
    batches = math.floor(count) if arguments.dataloader_drop_last else math.ceil(count)
    updates = max(math.ceil(batches / arguments.gradient_accumulation_steps), 1)
    total = math.ceil(arguments.num_train_epochs * updates)
    findings.add("total_steps", total, "observed", "from the training set's length, the batch and "
                 "the epochs")  # fmt: skip


# -- Accelerate --------------------------------------------------------------------------------

ACCELERATE = (
    "mixed_precision", "gradient_accumulation_steps", "num_processes", "distributed_type",
    "split_batches", "even_batches", "dispatch_batches", "use_seedable_sampler",
    "step_scheduler_with_optimizer", "project_dir",
)  # fmt: skip


def _find_accelerator(findings: Findings, accelerator: Any) -> None:
    findings.add("class", class_name(accelerator))
    defaults = defaults_of(type(accelerator))
    for name in ACCELERATE:
        value = _first(name, accelerator)
        if value is not NOTHING:
            kind = provenance(value, defaults.get(name, NOTHING))
            findings.add(name, value, kind, f"Accelerator.{name}")
    findings.add("device", str(accelerator.device), "observed", "Accelerator.device")


# -- Keras -------------------------------------------------------------------------------------

COMPILED = ("run_eagerly", "jit_compile", "steps_per_execution", "auto_scale_loss", "loss_weights")


def _is_keras_model(trainer: Any) -> bool:
    return _named(trainer, "Trainer", "keras") and hasattr(trainer, "get_compile_config")


def _find_keras_model(findings: Findings, model: Any) -> None:
    findings.add("class", class_name(model))
    if getattr(model, "compiled", False):
        _compiled(findings.at("compile"), model)
    else:
        findings.miss("compile", "the model is not compiled")
    fit = getattr(model, "_pellucid_fit", None)
    if isinstance(fit, Mapping):
        for name, value in fit.items():
            findings.add(f"fit/{name}", value, "observed", f"fit({name})")
    else:
        findings.miss("fit", "what fit is given is not kept by Keras: give fit the callback "
                      "pellucid.keras.HyperparameterLogger")  # fmt: skip


def _compiled(findings: Findings, model: Any) -> None:
    defaults = defaults_of_compile(model)
    try:
        with warnings.catch_warnings():  # of lambdas
            warnings.simplefilter("ignore")
            config = dict(model.get_compile_config())
    except Exception as error:  # a loss of the user's without a configuration
        findings.miss("config", f"{type(error).__name__}: {error}")
        config = {}
    config.pop("optimizer", None)  # it has a section of its own
    loss = getattr(model, "loss", None)
    held = getattr(loss, "_fn_kwargs", None)
    if held and isinstance(config.get("loss"), Mapping):  # Huber has no delta in its configuration
        config["loss"] = {**config["loss"], "config": {**config["loss"]["config"], **held}}
    config.setdefault("loss", loss)
    for name, value in config.items():
        kind = provenance(value, defaults.get(name, NOTHING))
        findings.add(name, _short_config(value), kind, f"compile({name})")
    for name in COMPILED:
        value = _first(name, model)
        if value is not NOTHING and is_setting(value) and name not in config:
            findings.add(name, value, provenance(value, defaults.get(name, NOTHING)),
                         f"Model.{name}")  # fmt: skip


def defaults_of_compile(model: Any) -> dict[str, Any]:
    """The defaults of `compile`'s arguments."""
    from pellucid.run.plain import signature_of

    signature = signature_of(type(model).compile)
    parameters = {} if signature is None else signature.parameters
    return {name: one.default for name, one in parameters.items()}


def _short_config(value: Any) -> Any:
    """A serialised object of Keras's as its class and arguments."""
    if isinstance(value, Mapping):
        if {"class_name", "config"} <= set(value):
            return {"class": value["class_name"], "config": _short_config(value["config"])}
        return {key: _short_config(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short_config(one) for one in value]
    return value


def _callbacks_in(trainer: Any) -> Iterator[Any]:
    yield from trainer if isinstance(trainer, (list, tuple)) else getattr(trainer, "callbacks", ())


def _is_callbacks(trainer: Any) -> bool:
    """Whether it is a list of callbacks, or Keras's CallbackList."""
    if not isinstance(trainer, (list, tuple)) and type(trainer).__name__ != "CallbackList":
        return _is_callback(trainer)
    found = list(_callbacks_in(trainer))
    return bool(found) and all(map(_is_callback, found))


def _is_callback(one: Any) -> bool:
    return any(base.__name__ in ("Callback", "TrainerCallback") for base in type(one).__mro__)


def _find_callback_list(findings: Findings, trainer: Any) -> None:
    found = [trainer] if _is_callback(trainer) else list(_callbacks_in(trainer))
    _find_callbacks(findings.at("callbacks"), found)


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Findings, Any], None]], ...] = (
    (_is_lightning, _find_lightning),
    (_is_hugging_face, _find_hugging_face),
    (lambda one: _named(one, "TrainingArguments", "transformers"), _find_arguments),
    (lambda one: _named(one, "Accelerator", "accelerate"), _find_accelerator),
    (_is_keras_model, _find_keras_model),
    (_is_callbacks, _find_callback_list),
)
"""Who takes what, first match wins."""
