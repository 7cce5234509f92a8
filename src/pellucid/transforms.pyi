"""Written by tools/stubs.py from the declarations; do not edit."""

from typing import Literal

from pellucid.declare import Value
from pellucid.rule import GradientTransform, ParameterTransform, UpdateTransform

class adaptive_clip(GradientTransform):
    """Limit the norm of each row's gradient, relative to that of the row itself."""

    def __init__(
        self,
        clipping: Value = 0.01,
        epsilon: Value = 0.001,
        *,
        name: str | None = None,
    ) -> None: ...

class add_noise(GradientTransform):
    """Add normal noise to each element of the gradient: ``grad + scale normal()``."""

    def __init__(
        self,
        scale: Value,
        *,
        name: str | None = None,
    ) -> None: ...

class average_weights(ParameterTransform):
    """Keep an exponential moving average of the parameter, in the slot ``average``."""

    def __init__(
        self,
        decay: Value = 0.999,
        *,
        name: str | None = None,
    ) -> None: ...

class centralize(GradientTransform):
    """Subtract from each row of the gradient its mean; vectors and scalars stay."""

    def __init__(
        self,
        *,
        name: str | None = None,
    ) -> None: ...

class clip_by_global_norm(GradientTransform):
    """Limit the norm of all gradients together: ``grad min(1, max_norm / norm)``."""

    def __init__(
        self,
        max_norm: Value,
        *,
        name: str | None = None,
    ) -> None: ...

class clip_by_norm(GradientTransform):
    """Limit the norm of each parameter's gradient: ``grad min(1, max_norm / ||grad||)``."""

    def __init__(
        self,
        max_norm: Value,
        *,
        name: str | None = None,
    ) -> None: ...

class clip_by_value(GradientTransform):
    """Limit each element of the gradient: ``min(max(grad, -max_value), max_value)``."""

    def __init__(
        self,
        max_value: Value,
        *,
        name: str | None = None,
    ) -> None: ...

class decay_weights(UpdateTransform):
    """Pull parameters towards zero, whatever the rule: ``update - times weight param``."""

    def __init__(
        self,
        weight: Value,
        times: Value = ...,
        *,
        name: str | None = None,
    ) -> None: ...

class normalize(GradientTransform):
    """Divide each parameter's gradient by its norm: ``grad / (||grad|| + epsilon)``."""

    def __init__(
        self,
        epsilon: Value = 1e-08,
        *,
        name: str | None = None,
    ) -> None: ...

class project(ParameterTransform):
    """Bring the norm of each row, or of each parameter, to a limit after the update."""

    def __init__(
        self,
        norm: Value = 1.0,
        *,
        mode: Literal['max', 'unit'] = 'max',
        over: Literal['row', 'tensor'] = 'row',
        name: str | None = None,
    ) -> None: ...

class scale(GradientTransform):
    """Multiply the gradient: ``factor grad``."""

    def __init__(
        self,
        factor: Value,
        *,
        name: str | None = None,
    ) -> None: ...

class skip_nonfinite(GradientTransform):
    """Skip the whole optimizer's update if any gradient holds an infinity or NaN."""

    def __init__(
        self,
        *,
        name: str | None = None,
    ) -> None: ...
