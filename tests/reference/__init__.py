"""Independent float64 NumPy references of the update rules, written from their sources.

Each takes an initial parameter and a list of gradients, performs every step, and returns the final
parameter and its slots by name. A gradient None skips the parameter in that update: its state and
its step count stay. A hyperparameter is a number, or a function of the optimizer's completed
updates. Slots come into being at the first gradient; without any there are none.
"""

from collections.abc import Callable

from .adadelta import adadelta
from .adagrad import adagrad, rowwise_adagrad
from .adam import adam, adamw
from .adamax import adamax
from .asgd import asgd
from .ftrl import ftrl
from .lion import lion
from .nadam import nadam
from .radam import radam
from .rmsprop import rmsprop
from .rprop import rprop
from .sgd import sgd
from .signum import signum
from .steps import Result

REFERENCES: dict[str, Callable[..., Result]] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "NAdam": nadam,
    "RAdam": radam,
    "Adamax": adamax,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "RowwiseAdagrad": rowwise_adagrad,
    "Adadelta": adadelta,
    "FTRL": ftrl,
    "Rprop": rprop,
    "ASGD": asgd,
    "Lion": lion,
    "Signum": signum,
}
