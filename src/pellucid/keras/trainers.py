"""The Keras models that train with an optimizer: found, synchronised, traced anew.

A compiled train function holds two things that an optimizer must know of. On JAX the state of a
running `fit` lives in the trainer, and the Variables are empty. And Python numbers and structure
(a schedule, the list of slots) are frozen when a step is traced, on TensorFlow and JAX. Keras
keeps no list of the models of an optimizer, so they are found by the garbage collector's list of
objects and, since `gc.freeze` hides some, by the calls that are running.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["compiled", "rebuild", "synchronise", "trainers_of"]

_seen: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()
"""The models that a search found last, by optimizer: a hint only, checked at each use."""


def trainers_of(optimizer: Any) -> list[Any]:
    """All live Keras models that train with an optimizer.

    Also where it is the inner one of another (`LossScaleOptimizer`, `MultiOptimizer`, a wrapper
    of one's own), and where a model with its own `train_step` keeps it under another name. Looks
    through all objects: about 0.1 s where there are a million.
    """
    from keras.src.trainers.trainer import Trainer

    candidates = {id(each): each for each in gc.get_objects() if issubclass(type(each), Trainer)}
    candidates.update((id(each), each) for each in _callers(sys._getframe(), Trainer))
    found = [each for each in candidates.values() if _trains_with(each, optimizer)]
    _seen[optimizer] = WeakSet(found)
    return found


def synchronise(optimizer: Any) -> None:
    """Have each running `fit` on JAX hand its state over to the Variables.

    Then they hold the true values, and what is written to them is taken up by the next step.
    Needed nowhere else; costs some microseconds where nothing is to do.

    Raises:
        RuntimeError: `fit` runs in another thread; or the optimizer's variables became more or
            fewer since the last step, so that Keras would mix them up.
    """
    import keras

    if keras.backend.backend() != "jax" or not _emptied(optimizer):
        return
    for model in [*_seen.get(optimizer, ())]:
        _hand_over(model)
    if not _emptied(optimizer):
        return
    models = trainers_of(optimizer)
    for model in models:
        _hand_over(model)
    if _emptied(optimizer) and models:
        raise RuntimeError(
            f"the variables of optimizer {optimizer.name!r} have no values now: a step of "
            f"{', '.join(repr(each.name) for each in models)} runs in another thread, or its "
            "first step failed. While fit runs, look and write in a callback, such as "
            "on_train_batch_end; after a failure, load the weights again"
        )


def rebuild(optimizer: Any) -> int:
    """Make the train functions of the optimizer's models anew: the next step is traced afresh.

    Also within `fit`, in any callback. Variables that come or go must do so after `synchronise`.

    Returns:
        How many were made: one for each model that had one.
    """
    synchronise(optimizer)
    if not vars(optimizer).get("_traced", True):  # ours tell: no compiled step has anything of it
        return 0
    models = [each for each in trainers_of(optimizer) if _train_function(each) is not None]
    for model in models:
        _make_anew(model)
    return len(models)


def compiled(optimizer: Any) -> bool:
    """Whether some model has a compiled train function, which may hold Python numbers."""
    import keras

    # TensorFlow compiles all that is not eager; the others only what is to be `jit_compile`d
    graph = keras.backend.backend() == "tensorflow"
    return any(
        _train_function(model) is not None
        and not model.run_eagerly
        and (graph or bool(model.jit_compile))
        for model in trainers_of(optimizer)
    )


# -- which models --------------------------------------------------------------------------


def _callers(frame: Any, kind: type) -> Iterator[Any]:
    """The objects of a class whose methods are being called, from a frame outwards."""
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if issubclass(type(owner), kind):
                yield owner
        frame = frame.f_back


def _trains_with(model: Any, optimizer: Any) -> bool:
    """Whether a model keeps an optimizer, itself or inside of another."""
    return any(each is optimizer for each in _optimizers_in(model, set()))


def _optimizers_in(owner: Any, met: set[int]) -> Iterator[Any]:
    """The optimizers among an object's attributes, and those inside of them."""
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    for value in [*getattr(owner, "__dict__", {}).values()]:
        for each in _members(value):
            if issubclass(type(each), BaseOptimizer) and id(each) not in met:
                met.add(id(each))
                yield each
                yield from _optimizers_in(each, met)


def _members(value: Any) -> Iterable[Any]:
    """A value, or what is in it: lists, dicts, and Keras's map from patterns to optimizers."""
    if isinstance(value, (list, tuple)):
        return [*value]
    if isinstance(value, Mapping):
        default = getattr(value, "default_optimizer", None)
        return [*value.values(), default]
    return (value,)


def _train_function(model: Any) -> Any:
    return getattr(model, "train_function", None)


# -- JAX's state ---------------------------------------------------------------------------


def _emptied(optimizer: Any) -> bool:
    """Whether a trainer has taken the values out of an optimizer's variables.

    A trainer empties all of them at once; of these, a user may have written the rate since.
    """
    from keras.src import backend

    if backend.in_stateless_scope():  # a step is being traced: values are in its scope
        return False
    trained = getattr(optimizer, "_trainable_variables", ())[:1]
    probes = [optimizer._iterations, *optimizer._variables[-1:], *trained]
    return any(getattr(each, "_value", each) is None for each in probes)


def _hand_over(model: Any) -> None:
    """Write the state of a running `fit`, `evaluate` or `predict` into the model's variables."""
    state = getattr(model, "_jax_state", None)
    if getattr(model, "_jax_state_synced", True) or not state or _runs_elsewhere(model):
        return
    firsts = [part[0] for part in state.values() if part]
    if any(array.is_deleted() for array in firsts):  # given away to a step that failed or runs
        return
    kept = state.get("optimizer_variables")
    own = model.optimizer.variables if kept is not None else []
    if kept is not None and len(kept) != len(own):
        raise RuntimeError(
            f"the optimizer of model {model.name!r} had {len(kept)} variables in the last step "
            f"and has {len(own)} now, so Keras would write values into the wrong ones; change "
            "what variables it has between calls of fit, or through pellucid.view(optimizer)"
        )
    model.jax_state_sync()


def _runs_elsewhere(model: Any) -> bool:
    """Whether another thread is inside of the model: its state changes under our hands."""
    here = threading.get_ident()
    tops = [top for thread, top in sys._current_frames().items() if thread != here]
    return any(each is model for top in tops for each in _callers(top, type(model)))


# -- tracing anew --------------------------------------------------------------------------


def _make_anew(model: Any) -> None:
    """Have a model make its train function again; if that fails, the old one stays."""
    import keras

    before = model.train_function
    model.train_function = None
    try:
        if keras.backend.backend() == "jax":
            with _unknown_to_jax(model):
                model.make_train_function()
        else:
            model.make_train_function()
    except BaseException:
        model.train_function = before
        raise


@contextmanager
def _unknown_to_jax(model: Any) -> Iterator[None]:
    """Let `model.train_step` be a function that JAX has not met.

    JAX keeps traces by function, and the bound methods of one object are equal: Keras's
    `make_train_function(force=True)` alone would run the old trace as long as anything holds it.
    """
    bound, attributes = model.train_step, vars(model)
    kept = {key: attributes[key] for key in ("train_step",) if key in attributes}

    def train_step(state: Any, data: Any) -> Any:
        return bound(state, data)

    attributes["train_step"] = train_step
    try:
        yield
    finally:
        del attributes["train_step"]
        attributes.update(kept)
