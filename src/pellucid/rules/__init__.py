"""The catalogue: one algorithm a file; this is the one list of them."""

from pellucid.rule import Rule
from pellucid.rules.adadelta import Adadelta
from pellucid.rules.adagrad import Adagrad
from pellucid.rules.adam import Adam
from pellucid.rules.adamax import Adamax
from pellucid.rules.adamw import AdamW
from pellucid.rules.asgd import ASGD
from pellucid.rules.ftrl import FTRL
from pellucid.rules.lion import Lion
from pellucid.rules.nadam import NAdam
from pellucid.rules.radam import RAdam
from pellucid.rules.rmsprop import RMSprop
from pellucid.rules.rowwise_adagrad import RowwiseAdagrad
from pellucid.rules.rprop import Rprop
from pellucid.rules.sgd import SGD
from pellucid.rules.signum import Signum

__all__ = [
    "ASGD",
    "CATALOGUE",
    "FTRL",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "RowwiseAdagrad",
    "Rprop",
    "Signum",
]

CATALOGUE: dict[str, type[Rule]] = {
    rule.__name__: rule
    for rule in (
        SGD,
        Adam,
        AdamW,
        NAdam,
        RAdam,
        Adamax,
        RMSprop,
        Adagrad,
        RowwiseAdagrad,
        Adadelta,
        FTRL,
        Rprop,
        ASGD,
        Lion,
        Signum,
    )
}
