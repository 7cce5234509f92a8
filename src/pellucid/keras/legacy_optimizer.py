"""The legacy Optimizer itself: hyperparameters, gradients, and the order of a step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from pellucid.keras.legacy_applying import Applying
from pellucid.keras.legacy_arguments import Unset, check_arguments, declared_below
from pellucid.keras.legacy_gradients import (
    CLIPPERS,
    Pair,
    compute_gradients,
    symbolic_gradients,
    with_gradient,
)
from pellucid.keras.legacy_hooks import Hooks, without_autograph
from pellucid.keras.legacy_hypers import Hypers
from pellucid.keras.legacy_variables import unwrap

__all__ = ["Optimizer"]

FUNCTIONS = ("gradient_aggregator", "gradient_transformers")
OF_KERAS = ("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency")
FLOATING = (
    tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128,
)  # fmt: skip


@without_autograph
class Optimizer(Applying):
    """The base of optimizers written for tf.keras's OptimizerV2.

    Args:
        name: stands before the names of all variables.
        gradient_aggregator: a function of (gradient, variable) pairs that sums them over replicas;
            TensorFlow's sum if left out.
        gradient_transformers: functions of (gradient, variable) pairs that give such pairs, called
            after the aggregator; not together with a clip argument.
        clipvalue, clipnorm, global_clipnorm: bounds of each element, each gradient's norm, all
            gradients' norm; the last two exclude each other.
        decay: the rate of step t is divided by ``1 + decay · t`` in `_decayed_lr`.
        lr: accepted; a subclass reads it as ``kwargs.get("lr", learning_rate)``.

    Raises:
        TypeError: another argument, or a name that is no string.
        ValueError: a negative argument, or clip arguments that exclude each other.
    """

    _HAS_AGGREGATE_GRAD = True
    weight_decay: Any = None
    use_ema = False
    ema_momentum = 0.99
    ema_overwrite_frequency = None
    gradient_accumulation_steps = None
    gradient_transformers: Any = ()
    learning_rate = Unset()

    def __init__(
        self,
        name: str | None,
        gradient_aggregator: Callable[..., Any] | None = None,
        gradient_transformers: Iterable[Callable[..., Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(type(self).__name__, name, kwargs)
        super().__init__(learning_rate=0.0, name=name)
        self._discard_keras_state()
        self._hypers = Hypers(self)
        self._hooks = Hooks(self, Optimizer)
        self._initial_decay = kwargs.get("decay", 0.0) or 0.0
        self._decay_is_hyper = False
        self._use_locking = True
        self.gradient_aggregator = gradient_aggregator or self._all_reduce_sum_gradients
        self.gradient_transformers = list(gradient_transformers or ())
        for argument in CLIPPERS:
            setattr(self, argument, kwargs.get(argument))

    def _discard_keras_state(self) -> None:
        """Drop the variables and arguments of Keras 3's optimizer; ours stand in their place."""
        for attribute in ("_iterations", "_learning_rate"):
            self._forget_trackable(attribute)
            del self.__dict__[attribute]
        for attribute in (*OF_KERAS, "gradient_accumulation_steps"):
            self.__dict__.pop(attribute, None)
        self._begin_state()

    # -- hyperparameters ---------------------------------------------------------------------

    @property
    def _hyper(self) -> Any:
        return self._hypers.values

    _hypers_created = True

    def _set_hyper(self, name: str, value: Any) -> None:
        """Give a hyperparameter a number, a tensor, a schedule or a function without arguments."""
        if name == "decay" and value is self._initial_decay:
            self._decay_is_hyper = True
        self._hypers.set(name, value)

    def _get_hyper(self, name: str, dtype: Any = None) -> Any:
        """The Variable, the schedule, or what the function gives, cast to ``dtype`` if given."""
        return self._hypers.get(name, dtype)

    def _serialize_hyperparameter(self, hyperparameter_name: str) -> Any:
        """A hyperparameter for `get_config`: a number, or a schedule's configuration."""
        return self._hypers.serialized(hyperparameter_name)

    def _create_hypers(self) -> None:
        """Nothing to do: hyperparameters are Variables since they were set."""

    def _decayed_lr(self, var_dtype: Any) -> Any:
        """The learning rate of this step: a schedule's value, divided by ``1 + decay · t``."""
        rate = self._get_hyper("learning_rate", var_dtype)
        steps = tf.cast(self.iterations, var_dtype)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = tf.cast(rate(steps), var_dtype)
        if self._decay_is_hyper:
            return rate / (1.0 + self._get_hyper("decay", var_dtype) * steps)
        if self._initial_decay > 0.0:
            return rate / (1.0 + tf.cast(self._initial_decay, var_dtype) * steps)
        return rate

    def __getattribute__(self, name: str) -> Any:
        instance = object.__getattribute__(self, "__dict__")
        if name.startswith("__") or "_hypers" not in instance or name in instance:
            return super().__getattribute__(name)
        if declared_below(type(self), Optimizer, name):
            return super().__getattribute__(name)
        hyper = "learning_rate" if name == "lr" else name
        if hyper in instance["_hypers"].values:
            return instance["_hypers"].shown(hyper)
        return super().__getattribute__(hyper)

    def __setattr__(self, name: str, value: Any) -> None:
        if declared_below(type(self), Optimizer, name):
            self._set_plain(name, value)
            return
        name = "learning_rate" if name == "lr" else name
        hypers = self.__dict__.get("_hypers")
        if hypers is not None and name in hypers.values:
            self._set_hyper(name, value)
            return
        self._set_plain(name, value)
        if name in FUNCTIONS:
            self._restructured(f"{name} was set")

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        hypers = self.__dict__.get("_hypers")
        names = set(hypers.values) if hypers is not None else set()
        return sorted({*super().__dir__(), *names, *(["lr"] if "learning_rate" in names else [])})

    # -- arguments ---------------------------------------------------------------------------

    def _set_clip(self, argument: str, value: Any) -> None:
        if value is not None and self.gradient_transformers:
            raise ValueError(
                f"{argument}={value} together with gradient_transformers: the transformers act "
                "after the clipping in an order that is easily mistaken. Clip in a transformer, "
                "or leave the transformers out."
            )
        before = self.__dict__.get(f"_{argument}")
        object.__setattr__(self, f"_{argument}", value)
        if before != value:
            self._restructured(f"{argument} was set to {value}")

    clipvalue = property(
        lambda self: self._clipvalue, lambda self, v: self._set_clip("clipvalue", v)
    )
    clipnorm = property(lambda self: self._clipnorm, lambda self, v: self._set_clip("clipnorm", v))
    global_clipnorm = property(
        lambda self: self._global_clipnorm, lambda self, v: self._set_clip("global_clipnorm", v)
    )

    # -- gradients ---------------------------------------------------------------------------

    def minimize(
        self, loss: Any, var_list: Any, grad_loss: Any = None, name: str | None = None,
        tape: Any = None,
    ) -> Any:  # fmt: skip
        """One step down the gradient of a function without arguments, or of a tape's tensor."""
        pairs = self._compute_gradients(loss, var_list=var_list, grad_loss=grad_loss, tape=tape)
        return self.apply_gradients(pairs, name=name)

    def _compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None
    ) -> list[Pair]:
        return compute_gradients(self, loss, var_list, grad_loss, tape)

    def _get_gradients(
        self, tape: Any, loss: Any, var_list: list[Any], grad_loss: Any = None
    ) -> list[Pair]:
        return list(zip(tape.gradient(loss, var_list, grad_loss), var_list, strict=True))

    def get_gradients(self, loss: Any, params: Any) -> list[Any]:
        """Gradients of a tensor of a graph, or of a function without arguments."""
        return symbolic_gradients(loss, params)

    def get_updates(self, loss: Any, params: Any) -> list[Any]:
        """One step, as a list of what it returns."""
        params = tf.nest.flatten(params)
        return [self.apply_gradients(zip(self.get_gradients(loss, params), params, strict=True))]

    def _transform_loss(self, loss: Any) -> Any:
        return loss

    def _transform_unaggregated_gradients(self, grads_and_vars: list[Pair]) -> list[Pair]:
        return grads_and_vars

    def _aggregate_gradients(self, grads_and_vars: list[Pair]) -> list[Pair]:
        return list(self.gradient_aggregator(grads_and_vars))

    def _transform_gradients(self, grads_and_vars: list[Pair]) -> list[Pair]:
        """Clip, then call each of `gradient_transformers`."""
        for argument, clip in CLIPPERS.items():
            bound = getattr(self, argument)
            if bound is not None:
                grads_and_vars = clip(grads_and_vars, bound)
        for transformer in self.gradient_transformers:
            grads_and_vars = transformer(grads_and_vars)
        return list(grads_and_vars)

    def _valid_dtypes(self) -> Iterable[Any]:
        return set(FLOATING)

    def _assert_valid_dtypes(self, tensors: Iterable[Any]) -> None:
        allowed = self._valid_dtypes()
        for one in tensors:
            if one.dtype.base_dtype not in allowed:
                raise ValueError(
                    f"{self._name} cannot train {one.name}: its dtype is {one.dtype.name}, allowed "
                    f"are {', '.join(sorted(dtype.name for dtype in allowed))}."
                )

    def _call_if_callable(self, param: Any) -> Any:
        return param() if callable(param) else param

    # -- a step ------------------------------------------------------------------------------

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """A step, as Keras 3 calls it; without variables, for those that it was built with."""
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        if len(grads) != len(trainable_variables):
            raise ValueError(
                f"{self._name} was given {len(grads)} gradients for {len(trainable_variables)} "
                "variables. Give a gradient or None for each; without variables, build it first "
                "with optimizer.build(variables)."
            )
        self.apply_gradients(zip(grads, trainable_variables, strict=True))

    def apply_gradients(
        self,
        grads_and_vars: Iterable[Pair],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
    ) -> Any:
        """A step: transform the gradients, call a hook for each variable, count.

        Args:
            grads_and_vars: pairs of gradient (or None) and variable, Keras's or TensorFlow's.
            experimental_aggregate_gradients: False if they are summed over the replicas already.

        Returns:
            `iterations` after the step.

        Raises:
            ValueError: no variable has a gradient.
            NotImplementedError: the subclass lacks a hook that is needed.
        """
        pairs = with_gradient(grads_and_vars)
        if not pairs:
            return tf.no_op()
        with tf.init_scope():
            self._meet([variable for _, variable in pairs])
        if tf.distribute.in_cross_replica_context():
            raise RuntimeError(
                f"{self._name}.apply_gradients was called outside of a replica: call it in a "
                "function that is given to strategy.run."
            )
        pairs = [(self._unscaled(gradient), unwrap(variable)) for gradient, variable in pairs]
        self._hooks.check(pairs)
        with tf.name_scope(name or self._name), tf.control_dependencies(self._still_valid()):
            with tf.init_scope():
                self._create_all_weights([variable for _, variable in pairs])
                self._load_waiting()
            return self._step(pairs, experimental_aggregate_gradients)

    def _step(self, pairs: list[Pair], aggregate: bool) -> Any:
        apply_state = self._prepare([variable for _, variable in pairs])
        if aggregate:
            pairs = self._aggregate_gradients(self._transform_unaggregated_gradients(pairs))
        pairs = self._transform_gradients(pairs)
        with self._applying():
            return tf.__internal__.distribute.interim.maybe_merge_call(
                functools.partial(self._apply_to_all, apply_state),
                tf.distribute.get_strategy(),
                pairs,
            )

    def _apply_to_all(self, apply_state: Any, strategy: Any, pairs: list[Pair]) -> Any:
        def apply_to_one(variable: Any, gradient: Any) -> None:
            if isinstance(gradient, tf.IndexedSlices):
                self._hooks.sparse(gradient, variable, apply_state)
            else:
                self._hooks.dense(gradient, variable, apply_state)
            constraint = self._constraint(variable)
            if constraint is not None:
                variable.assign(constraint(variable))

        for gradient, variable in pairs:
            strategy.extended.update(variable, apply_to_one, args=(gradient,), group=False)
        return self.iterations.assign_add(1)

    def _unscaled(self, gradient: Any) -> Any:
        """A gradient without Keras's ``loss_scale_factor``."""
        scale = self.loss_scale_factor
        return gradient if scale is None else keras.ops.divide(gradient, scale)

    # -- configuration -----------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The name and the clip arguments; a subclass adds its hyperparameters."""
        config = {"name": self._name}
        for argument in CLIPPERS:
            if getattr(self, argument) is not None:
                config[argument] = getattr(self, argument)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """An optimizer from what `get_config` gave; ``lr`` is read as the learning rate."""
        config = dict(config)
        if "lr" in config:
            config["learning_rate"] = config.pop("lr")
        for argument, value in config.items():
            if isinstance(value, dict) and {"class_name", "config"} <= value.keys():
                config[argument] = keras.saving.deserialize_keras_object(
                    value, custom_objects=custom_objects
                )
        return cls(**config)
