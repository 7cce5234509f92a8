"""Written by tools/stubs.py from the declarations; do not edit."""

from collections.abc import Iterable, Mapping
from typing import Any

from pellucid.declare import Value
from pellucid.torch.optimizer import Optimizer as Optimizer
from pellucid.torch.report import LoadReport as LoadReport

class ASGD(Optimizer):
    """Step against the gradient with a falling rate, and keep the average of the parameters."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.01,
        lambd: Value = 0.0001,
        alpha: Value = 0.75,
        t0: Value = 1000000.0,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Adadelta(Optimizer):
    """Scale the gradient by the ratio of two roots: of the mean squared update and gradient."""

    def __init__(
        self,
        params: Any,
        lr: Value = 1.0,
        rho: Value = 0.9,
        eps: Value = 1e-06,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Adagrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares so far."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.01,
        lr_decay: Value = 0.0,
        weight_decay: Value = 0.0,
        initial_accumulator_value: Value = 0.0,
        eps: Value = 1e-10,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Adam(Optimizer):
    """Step along the mean gradient, each element divided by the root of its mean square."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.001,
        betas: tuple[Value, ...] = (0.9, 0.999),
        eps: Value = 1e-08,
        weight_decay: Value = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class AdamW(Optimizer):
    """Adam, with the parameter itself decayed: the decay is not divided by the gradient's size."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.001,
        betas: tuple[Value, ...] = (0.9, 0.999),
        eps: Value = 1e-08,
        weight_decay: Value = 0.01,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Adamax(Optimizer):
    """Step along the mean gradient, each element divided by its decaying largest size."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.002,
        betas: tuple[Value, ...] = (0.9, 0.999),
        eps: Value = 1e-08,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class FTRL(Optimizer):
    """Minimize the sum of all linearized losses, regularized: weights become exactly zero."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.001,
        learning_rate_power: Value = -0.5,
        initial_accumulator_value: Value = 0.1,
        l1: Value = 0.0,
        l2: Value = 0.0,
        l2_shrinkage: Value = 0.0,
        beta: Value = 0.0,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Lion(Optimizer):
    """Step along the sign of an interpolated momentum."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.0001,
        betas: tuple[Value, ...] = (0.9, 0.99),
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class NAdam(Optimizer):
    """Adam, with a mean gradient that looks one step ahead."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.002,
        betas: tuple[Value, ...] = (0.9, 0.999),
        eps: Value = 1e-08,
        weight_decay: Value = 0.0,
        momentum_decay: Value = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class RAdam(Optimizer):
    """Adam, with a plain step along the mean gradient until the second moment is reliable."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.001,
        betas: tuple[Value, ...] = (0.9, 0.999),
        eps: Value = 1e-08,
        weight_decay: Value = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class RMSprop(Optimizer):
    """Divide the gradient by the root of its mean square."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.01,
        alpha: Value = 0.99,
        eps: Value = 1e-08,
        weight_decay: Value = 0.0,
        momentum: Value = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class RowwiseAdagrad(Optimizer):
    """Adagrad, with one sum of squares for each row ``param[i]``: 1 / columns of the memory."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.01,
        lr_decay: Value = 0.0,
        weight_decay: Value = 0.0,
        initial_accumulator_value: Value = 0.0,
        eps: Value = 1e-10,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Rprop(Optimizer):
    """Step by the gradient's sign alone, each element by a step size of its own."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.01,
        etas: tuple[Value, ...] = (0.5, 1.2),
        step_sizes: tuple[Value, ...] = (1e-06, 50.0),
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class SGD(Optimizer):
    """Step against the gradient, or against a velocity that accumulates gradients."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.001,
        momentum: Value = 0.0,
        dampening: Value = 0.0,
        weight_decay: Value = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...

class Signum(Optimizer):
    """Step along the sign of the mean gradient; without momentum this is signSGD."""

    def __init__(
        self,
        params: Any,
        lr: Value = 0.0001,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        groups: Mapping[Any, Mapping[str, Any]] | None = None,
        gradient_transformers: Iterable[Any] = (),
        compiled: bool = True,
        seed: int = 0,
        rounding: Value = 'nearest',
        state_dtype: Value = 'float32',
        sparse: Value = 'dense',
    ) -> None: ...
