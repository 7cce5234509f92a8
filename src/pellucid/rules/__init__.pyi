"""Written by tools/stubs.py from the declarations; do not edit."""

from typing import Literal

from pellucid.declare import Value
from pellucid.rule import Rule

CATALOGUE: dict[str, type[Rule]]

class ASGD(Rule):
    """Step against the gradient with a falling rate, and keep the average of the parameters."""

    def __init__(
        self,
        learning_rate: Value = 0.01,
        lambd: Value = 0.0001,
        alpha: Value = 0.75,
        t0: Value = 1000000.0,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Adadelta(Rule):
    """Scale the gradient by the ratio of two roots: of the mean squared update and gradient."""

    def __init__(
        self,
        learning_rate: Value = 1.0,
        rho: Value = 0.9,
        epsilon: Value = 1e-06,
        weight_decay: Value = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Adagrad(Rule):
    """Divide the gradient by the root of the sum of all its squares so far."""

    def __init__(
        self,
        learning_rate: Value = 0.01,
        learning_rate_decay: Value = 0.0,
        weight_decay: Value = 0.0,
        initial_accumulator_value: Value = 0.0,
        epsilon: Value = 1e-10,
        *,
        epsilon_inside: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Adam(Rule):
    """Step along the mean gradient, each element divided by the root of its mean square."""

    def __init__(
        self,
        learning_rate: Value = 0.001,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.0,
        *,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        corrected: Literal['moments', 'rate'] = 'moments',
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Adamax(Rule):
    """Step along the mean gradient, each element divided by its decaying largest size."""

    def __init__(
        self,
        learning_rate: Value = 0.002,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.0,
        *,
        epsilon_inside: bool = True,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class FTRL(Rule):
    """Minimize the sum of all linearized losses, regularized: weights become exactly zero."""

    def __init__(
        self,
        learning_rate: Value = 0.001,
        learning_rate_power: Value = -0.5,
        initial_accumulator_value: Value = 0.1,
        l1: Value = 0.0,
        l2: Value = 0.0,
        l2_shrinkage: Value = 0.0,
        beta: Value = 0.0,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Lion(Rule):
    """Step along the sign of an interpolated momentum."""

    def __init__(
        self,
        learning_rate: Value = 0.0001,
        beta1: Value = 0.9,
        beta2: Value = 0.99,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class NAdam(Rule):
    """Adam, with a mean gradient that looks one step ahead."""

    def __init__(
        self,
        learning_rate: Value = 0.002,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.0,
        momentum_decay: Value = 0.004,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class RAdam(Rule):
    """Adam, with a plain step along the mean gradient until the second moment is reliable."""

    def __init__(
        self,
        learning_rate: Value = 0.001,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class RMSprop(Rule):
    """Divide the gradient by the root of its mean square."""

    def __init__(
        self,
        learning_rate: Value = 0.01,
        rho: Value = 0.99,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.0,
        momentum: Value = 0.0,
        *,
        centered: bool = False,
        epsilon_inside: bool = False,
        velocity_of: Literal['gradient', 'step'] = 'gradient',
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Rprop(Rule):
    """Step by the gradient's sign alone, each element by a step size of its own."""

    def __init__(
        self,
        learning_rate: Value = 0.01,
        eta_minus: Value = 0.5,
        eta_plus: Value = 1.2,
        minimum_step: Value = 1e-06,
        maximum_step: Value = 50.0,
        *,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class SGD(Rule):
    """Step against the gradient, or against a velocity that accumulates gradients."""

    def __init__(
        self,
        learning_rate: Value = 0.001,
        momentum: Value = 0.0,
        dampening: Value = 0.0,
        weight_decay: Value = 0.0,
        *,
        nesterov: bool = False,
        velocity_of: Literal['gradient', 'step'] = 'gradient',
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class Signum(Rule):
    """Step along the sign of the mean gradient; without momentum this is signSGD."""

    def __init__(
        self,
        learning_rate: Value = 0.0001,
        momentum: Value = 0.9,
        weight_decay: Value = 0.0,
        *,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class AdamW(Adam):
    """Adam, with the parameter itself decayed: the decay is not divided by the gradient's size."""

    def __init__(
        self,
        learning_rate: Value = 0.001,
        beta1: Value = 0.9,
        beta2: Value = 0.999,
        epsilon: Value = 1e-08,
        weight_decay: Value = 0.01,
        *,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        corrected: Literal['moments', 'rate'] = 'moments',
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...

class RowwiseAdagrad(Adagrad):
    """Adagrad, with one sum of squares for each row ``param[i]``: 1 / columns of the memory."""

    def __init__(
        self,
        learning_rate: Value = 0.01,
        learning_rate_decay: Value = 0.0,
        weight_decay: Value = 0.0,
        initial_accumulator_value: Value = 0.0,
        epsilon: Value = 1e-10,
        *,
        epsilon_inside: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        name: str | None = None,
    ) -> None: ...
