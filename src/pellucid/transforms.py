"""Stages around a rule: gradients clipped, weights decayed, averaged and projected.

They are written like functions, and stand beside a rule in a `pellucid.chain`:

>>> from pellucid import SGD, chain
>>> chain(clip_by_global_norm(1.0), SGD(0.1), decay_weights(0.01))
chain(clip_by_global_norm(max_norm=1.0), SGD(learning_rate=0.1), decay_weights(weight=0.01))

A row is ``param[i]``, with all that is in it: an output unit where weights are stored (out, in).
"""

from typing import Any

from pellucid.declare import ref
from pellucid.ops import Over, clip, isfinite, lerp, maximum, mean, minimum, norm, normal, where
from pellucid.rule import (
    GradientTransform,
    ParameterTransform,
    UpdateTransform,
    hyper,
    option,
    slot,
)

__all__ = [
    "adaptive_clip",
    "add_noise",
    "average_weights",
    "centralize",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "decay_weights",
    "normalize",
    "project",
    "scale",
    "skip_nonfinite",
]


# -- gradient transforms -----------------------------------------------------------------------


class clip_by_value(GradientTransform):
    """Limit each element of the gradient: ``min(max(grad, -max_value), max_value)``.

    NaN stays NaN; an infinity becomes the limit.

    >>> clip_by_value(0.5)
    clip_by_value(max_value=0.5)
    """

    max_value = hyper(above=0, doc="The largest absolute value that is let through.")

    def update(self, param: Any, grad: Any) -> Any:
        return clip(grad, -self.max_value, self.max_value)


class clip_by_norm(GradientTransform):
    """Limit the norm of each parameter's gradient: ``grad min(1, max_norm / ||grad||)``.

    The norm is that of one tensor, by itself; see `clip_by_global_norm` for that of all together,
    also for what becomes of values that are not finite.

    >>> clip_by_norm(1.0)
    clip_by_norm(max_norm=1.0)
    """

    max_norm = hyper(above=0, doc="The largest norm that is let through.")

    def update(self, param: Any, grad: Any) -> Any:
        return grad * minimum(1.0, self.max_norm / norm(grad))


class clip_by_global_norm(GradientTransform):
    """Limit the norm of all gradients together: ``grad min(1, max_norm / norm)``.

        norm = sqrt(sum of all squares of all gradients of this optimizer)

    Squares are formed and summed in float64. As in `torch.nn.utils.clip_grad_norm_` and in optax,
    values that are not finite stay visible: a NaN anywhere makes every gradient NaN; an infinity
    makes every finite element 0, and NaN where it stands. Put `skip_nonfinite` beside it to skip
    such an update whole. Torch divides by norm + 1e-6; here, as in optax, it is the norm.

    Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.

    >>> clip_by_global_norm(1.0)
    clip_by_global_norm(max_norm=1.0)
    """

    max_norm = hyper(above=0, doc="The largest norm that is let through.")

    def update(self, param: Any, grad: Any) -> Any:
        return grad * minimum(1.0, self.max_norm / norm(grad, over="all"))


class adaptive_clip(GradientTransform):
    """Limit the norm of each row's gradient, relative to that of the row itself.

        limit = clipping max(||param_i||, epsilon)
        grad_i = limit grad_i / ||grad_i|| where ||grad_i|| > limit

    Vectors and scalars are taken whole. Brock et al. 2021, arXiv:2102.06171, eq. 3; the smallest
    divisor, 1e-6, is that of the authors' code.

    >>> adaptive_clip(clipping=0.02)
    adaptive_clip(clipping=0.02)
    """

    clipping = hyper(0.01, above=0, doc="The largest ratio of the two norms.")
    epsilon = hyper(1e-3, minimum=0, doc="The smallest norm a row counts with: zeros must grow.")

    def update(self, param: Any, grad: Any) -> Any:
        over: Over = "row" if param.ndim > 1 else "tensor"
        limit = self.clipping * maximum(norm(param, over), self.epsilon)
        actual = norm(grad, over)
        return where(actual > limit, grad * (limit / maximum(actual, 1e-6)), grad)


class centralize(GradientTransform):
    """Subtract from each row of the gradient its mean; vectors and scalars stay.

        grad_i = grad_i - mean(grad_i)

    Yong et al. 2020, arXiv:2004.01461, eq. 1.

    >>> centralize()
    centralize()
    """

    def update(self, param: Any, grad: Any) -> Any:
        return grad - mean(grad, over="row") if param.ndim > 1 else grad


class normalize(GradientTransform):
    """Divide each parameter's gradient by its norm: ``grad / (||grad|| + epsilon)``.

    >>> normalize()
    normalize()
    """

    epsilon = hyper(1e-8, minimum=0, doc="Added to the norm: 0 / 0 is NaN.")

    def update(self, param: Any, grad: Any) -> Any:
        return grad / (norm(grad) + self.epsilon)


class add_noise(GradientTransform):
    """Add normal noise to each element of the gradient: ``grad + scale normal()``.

    Neelakantan et al. 2015, arXiv:1511.06807, eq. 1, where the noise falls with the completed
    updates t: its variance is ``eta / (1 + t)^0.55``, eta one of 0.01, 0.3 and 1. That is a
    schedule of ``scale``. The numbers depend on the optimizer's seed, the parameter, the step and
    the element's position alone.

    >>> def falling(t):
    ...     return (0.3 / (1 + t) ** 0.55) ** 0.5
    >>> noise = add_noise(scale=falling)
    """

    scale = hyper(minimum=0, doc="The noise's standard deviation.")

    def update(self, param: Any, grad: Any) -> Any:
        return grad + self.scale * normal(grad)


class scale(GradientTransform):
    """Multiply the gradient: ``factor grad``.

    >>> scale(0.5)
    scale(factor=0.5)
    """

    factor = hyper(doc="What each gradient is multiplied by.")

    def update(self, param: Any, grad: Any) -> Any:
        return self.factor * grad


class skip_nonfinite(GradientTransform):
    """Skip the whole optimizer's update if any gradient holds an infinity or NaN.

    Parameters, state and the number of updates stay as they were; in NumPy ``step`` returns False.

    >>> skip_nonfinite()
    skip_nonfinite()
    """

    def update(self, param: Any, grad: Any) -> Any:
        self.veto(~isfinite(grad))
        return grad


# -- update transforms -------------------------------------------------------------------------


_RATE = ref("learning_rate")


class decay_weights(UpdateTransform):
    """Pull parameters towards zero, whatever the rule: ``update - times weight param``.

    ``times`` is the rule's learning rate, so that decay and rate fall together; ``times=None`` is
    1: the decay is independent of the rate. The parameter is that before the update.

    Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2, line 12, whose eta is ``times``: there
    the multiplier of a schedule, in torch and optax the rate itself.

    >>> decay_weights(0.01)
    decay_weights(weight=0.01)
    >>> decay_weights(1e-5, times=None)
    decay_weights(weight=1e-05, times=1.0)
    """

    weight = hyper(minimum=0, doc="This times ``times`` is the share removed in an update.")
    times = hyper(_RATE, minimum=0, doc="What multiplies it; None is 1.")

    def __init__(self, weight: Any, times: Any = _RATE, **more: Any) -> None:
        super().__init__(weight, 1.0 if times is None else times, **more)

    def update(self, param: Any, grad: Any, update: Any) -> Any:
        return update - self.times * self.weight * param


# -- parameter transforms ----------------------------------------------------------------------


class average_weights(ParameterTransform):
    """Keep an exponential moving average of the parameter, in the slot ``average``.

        average = decay average + (1 - decay) param;  at first the average is the parameter

    The parameter itself is not changed. Polyak & Juditsky 1992, "Acceleration of stochastic
    approximation by averaging", in the form of Tarvainen & Valpola 2017, arXiv:1703.01780, eq. 3.

    >>> average_weights(0.99)
    average_weights(decay=0.99)
    """

    decay = hyper(0.999, minimum=0, maximum=1, doc="Share of the average that is kept.")
    average = slot("param")

    def update(self, param: Any, previous: Any) -> Any:
        self.average = lerp(param, self.average, self.decay)
        return param


class project(ParameterTransform):
    """Bring the norm of each row, or of each parameter, to a limit after the update.

        mode="max": param_i norm / ||param_i|| where ||param_i|| > norm
        mode="unit": param_i norm / ||param_i||, but where ||param_i|| = 0

    Vectors and scalars are taken whole. ``max`` is the max-norm constraint of Srivastava et al.
    2014, JMLR 15, "Dropout", section 5.1; ``unit`` keeps weights on a sphere, as in Salimans &
    Kingma 2016, arXiv:1602.07868, eq. 2 with a fixed g.

    >>> project(3.0)
    project(norm=3.0)
    >>> project(mode="unit", over="tensor")
    project(mode='unit', over='tensor')
    """

    norm = hyper(1.0, above=0, doc="The norm, or the largest one.")
    mode = option("max", choices=("max", "unit"), doc="Only shrink, or always rescale.")
    over = option("row", choices=("row", "tensor"), doc="What the norm is taken of.")

    def update(self, param: Any, previous: Any) -> Any:
        actual = norm(param, self.over if param.ndim > 1 else "tensor")
        misses = actual > (self.norm if self.mode == "max" else 0.0)
        return where(misses, param * (self.norm / actual), param)
