"""How Numba and the host spell each operation: two tables, one row an operation."""

from __future__ import annotations

import math
from typing import Any

from pellucid.fuse.emit import Target

__all__ = ["HOST", "HOST_NAMES", "NUMBA"]

_SHARED: dict[str, str] = {
    "add": "({0} + {1})",
    "sub": "({0} - {1})",
    "mul": "({0} * {1})",
    "neg": "(-{0})",
    "lt": "({0} < {1})",
    "le": "({0} <= {1})",
    "gt": "({0} > {1})",
    "ge": "({0} >= {1})",
    "eq": "({0} == {1})",
    "ne": "({0} != {1})",
    "and": "({0} and {1})",
    "or": "({0} or {1})",
    "not": "(not {0})",
    "where": "({1} if {0} else {2})",
    "abs": "abs({0})",
    "isfinite": "math.isfinite({0})",
    "minimum": "({0} if {0} < {1} or {0} != {0} else {1})",
    "maximum": "({0} if {0} > {1} or {0} != {0} else {1})",
}

NUMBA = Target(
    {
        **_SHARED,
        "and": "({0} & {1})",
        "or": "({0} | {1})",
        "div": "({0} / {1})",
        "power": "({0} ** {1})",
        "sqrt": "math.sqrt({0})",
        "exp": "math.exp({0})",
        "log": "math.log({0})",
        "minimum": "({0} if ({0} < {1}) | ({0} != {0}) else {1})",
        "maximum": "({0} if ({0} > {1}) | ({0} != {0}) else {1})",
        "sign": "sign_of({0})",
    }
)

HOST = Target(
    {
        **_SHARED,
        "div": "div({0}, {1})",
        "power": "power({0}, {1})",
        "sqrt": "sqrt({0})",
        "exp": "exp({0})",
        "log": "log({0})",
        "sign": "sign({0})",
    }
)


def _div(a: float, b: float) -> float:
    try:
        return a / b
    except ZeroDivisionError:
        if a == 0.0 or a != a:
            return math.nan
        return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.inf if a > 0 or b % 2 == 0 else -math.inf
    except ValueError:
        return math.copysign(math.inf, a if b % 2 == 1 else 1.0) if a == 0.0 else math.nan


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _log(a: float) -> float:
    if a > 0:
        return math.log(a)
    return -math.inf if a == 0.0 else math.nan


def _sign(a: float) -> float:
    return 1.0 if a > 0 else -1.0 if a < 0 else a


HOST_NAMES: dict[str, Any] = {
    "math": math,
    "div": _div,
    "power": _power,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "exp": _exp,
    "log": _log,
    "sign": _sign,
}
