"""The mathematics that an update may use: a closed table, one row an operation.

Every function takes what an update sees (its ``param``, ``grad``, slots and hyperparameters)
and numbers. While a rule is traced those are symbols, and a call adds a node to the graph. With
``compiled=False`` they are the framework's own arrays, and a call computes at once. On plain
numbers and NumPy arrays the functions work at a prompt, too:

>>> float(lerp(1.0, 3.0, 0.25))
1.5
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "abs",
    "clip",
    "exp",
    "isfinite",
    "lerp",
    "log",
    "max_abs",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "normal",
    "power",
    "rsqrt",
    "sign",
    "size",
    "sqrt",
    "square",
    "sum",
    "uniform",
    "where",
]

Over = Literal["tensor", "row", "column", "all"]
OVER: tuple[Over, ...] = ("tensor", "row", "column", "all")
Kind = Literal["arithmetic", "comparison", "logic", "reduction", "random", "size", "rounding"]


class RuleError(ValueError):
    """What is wrong with a rule, or with the use of one; names rule, line and remedy."""


@dataclass(frozen=True)
class Operation:
    """One row of the table: what an operation is, for every backend.

    ``define`` computes it in any array namespace that has NumPy's names. Reductions and random
    numbers need to know more than their arguments, and are defined by the interpreter.
    """

    name: str
    arity: int
    kind: Kind
    define: Callable[..., Any] | None = None


def _table(*rows: Operation) -> dict[str, Operation]:
    return {row.name: row for row in rows}


TABLE: dict[str, Operation] = _table(
    Operation("add", 2, "arithmetic", lambda xp, a, b: a + b),
    Operation("sub", 2, "arithmetic", lambda xp, a, b: a - b),
    Operation("mul", 2, "arithmetic", lambda xp, a, b: a * b),
    Operation("div", 2, "arithmetic", lambda xp, a, b: xp.divide(a, b)),
    Operation("neg", 1, "arithmetic", lambda xp, a: -a),
    Operation("power", 2, "arithmetic", lambda xp, a, b: xp.power(a, b)),
    Operation("sqrt", 1, "arithmetic", lambda xp, a: xp.sqrt(a)),
    Operation("abs", 1, "arithmetic", lambda xp, a: xp.abs(a)),
    Operation("sign", 1, "arithmetic", lambda xp, a: xp.sign(a)),
    Operation("exp", 1, "arithmetic", lambda xp, a: xp.exp(a)),
    Operation("log", 1, "arithmetic", lambda xp, a: xp.log(a)),
    Operation("minimum", 2, "arithmetic", lambda xp, a, b: xp.minimum(a, b)),
    Operation("maximum", 2, "arithmetic", lambda xp, a, b: xp.maximum(a, b)),
    Operation("where", 3, "arithmetic", lambda xp, c, a, b: xp.where(c, a, b)),
    Operation("lt", 2, "comparison", lambda xp, a, b: a < b),
    Operation("le", 2, "comparison", lambda xp, a, b: a <= b),
    Operation("gt", 2, "comparison", lambda xp, a, b: a > b),
    Operation("ge", 2, "comparison", lambda xp, a, b: a >= b),
    Operation("eq", 2, "comparison", lambda xp, a, b: a == b),
    Operation("ne", 2, "comparison", lambda xp, a, b: a != b),
    Operation("isfinite", 1, "comparison", lambda xp, a: xp.isfinite(a)),
    Operation("and", 2, "logic", lambda xp, a, b: xp.logical_and(a, b)),
    Operation("or", 2, "logic", lambda xp, a, b: xp.logical_or(a, b)),
    Operation("not", 1, "logic", lambda xp, a: xp.logical_not(a)),
    Operation("sum", 1, "reduction"),
    Operation("sum_squares", 1, "reduction"),
    Operation("max_abs", 1, "reduction"),
    Operation("uniform", 1, "random"),
    Operation("normal", 1, "random"),
    Operation("size", 1, "size"),
    Operation("rounded", 1, "rounding"),  # to a 16-bit type: of the storage, not of updates
    Operation("rounded_randomly", 2, "rounding"),
)


class Executor(Protocol):
    """What carries out an operation: a tracer adds a node, an interpreter computes."""

    def apply(self, name: str, args: tuple[Any, ...], over: Over | None) -> Any: ...


class Symbol:
    """A value inside an update that is being traced: a node of the graph, not a number."""

    __slots__ = ("executor", "node")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]  # == builds a node

    def __init__(self, executor: Executor, node: Any) -> None:
        self.executor = executor
        self.node = node

    def _apply(self, name: str, *args: Any) -> Any:
        return self.executor.apply(name, args, None)

    def __add__(self, other: Any) -> Any:
        return self._apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._apply("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._apply("power", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._apply("power", other, self)

    def __neg__(self) -> Any:
        return self._apply("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._apply("abs", self)

    def __lt__(self, other: Any) -> Any:
        return self._apply("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self._apply("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._apply("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self._apply("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return self._apply("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return self._apply("ne", self, other)

    def __and__(self, other: Any) -> Any:
        return self._apply("and", self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        return self._apply("or", self, other)

    __ror__ = __or__

    def __invert__(self) -> Any:
        return self._apply("not", self)

    @property
    def ndim(self) -> int:
        """The number of dimensions: the one plain number that a shape gives while tracing."""
        return cast(int, self.node.ndim)

    def __bool__(self) -> bool:
        raise RuleError(
            "a Python `if`, `and`, `or`, `not`, `min` or `max` asked for the truth of a value that "
            "is known only when the kernel runs; use ops.where(condition, a, b), `&`, `|`, `~`, "
            "ops.minimum or ops.maximum, or make what is decided an option()"
        )

    def _no_number(self, *_: Any) -> Any:
        raise RuleError(
            "a Python number was asked of a value that is known only when the kernel runs; "
            f"compute with the functions of pellucid.ops ({', '.join(__all__)})"
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = __len__ = _no_number
    __iter__ = __getitem__ = __array__ = __jax_array__ = _no_number

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any, **__: Any) -> Any:
        raise RuleError(
            f"torch.{getattr(function, '__name__', function)} is outside the table of operations; "
            f"use pellucid.ops: {', '.join(__all__)}"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        hint = f"use pellucid.ops.{name}(x)" if name in __all__ else "use pellucid.ops"
        raise RuleError(
            f"`.{name}` is not available inside an update: {hint} "
            f"(operations: {', '.join(__all__)}; of a shape only `.ndim` is a plain number)"
        )


_executor: ContextVar[Executor | None] = ContextVar("pellucid_executor", default=None)


@contextmanager
def computing_with(executor: Executor) -> Iterator[None]:
    """Carry out operations on plain arrays with this executor (``compiled=False``)."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)


def _call(name: str, *args: Any, over: Over | None = None) -> Any:
    for arg in args:
        if isinstance(arg, Symbol):
            return arg.executor.apply(name, args, over)
    executor = _executor.get()
    if executor is not None:
        return executor.apply(name, args, over)
    define = TABLE[name].define
    if define is None:
        raise RuleError(f"ops.{name} needs to know the tensor: it works inside an update only")
    import numpy

    return define(numpy, *args)


def _checked_over(over: str) -> Over:
    if over not in OVER:
        raise RuleError(f"over must be one of {', '.join(OVER)}, got {over!r}")
    return over


def sqrt(x: Any) -> Any:
    """Square root; NaN below zero."""
    return _call("sqrt", x)


def rsqrt(x: Any) -> Any:
    """Reciprocal square root, ``1 / sqrt(x)``."""
    return _call("div", 1.0, _call("sqrt", x))


def square(x: Any) -> Any:
    """``x * x``."""
    return _call("mul", x, x)


def abs(x: Any) -> Any:
    """Absolute value."""
    return _call("abs", x)


def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN for NaN."""
    return _call("sign", x)


def exp(x: Any) -> Any:
    """e to the power of x."""
    return _call("exp", x)


def log(x: Any) -> Any:
    """Natural logarithm; -inf at zero, NaN below."""
    return _call("log", x)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent``."""
    return _call("power", x, exponent)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of two; NaN if either is NaN."""
    return _call("minimum", x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger of two; NaN if either is NaN."""
    return _call("maximum", x, y)


def clip(x: Any, lowest: Any, highest: Any) -> Any:
    """``minimum(maximum(x, lowest), highest)``."""
    return minimum(maximum(x, lowest), highest)


def where(condition: Any, x: Any, y: Any) -> Any:
    """``x`` where the condition holds, else ``y``; both are computed."""
    return _call("where", condition, x, y)


def lerp(start: Any, end: Any, weight: Any) -> Any:
    """``(1 - weight) * start + weight * end``.

    An exponential moving average is ``lerp(new, average, beta)``. ``1 - weight`` is formed where
    the weight lives (in float64 for a hyperparameter), and no nearly equal numbers are subtracted.
    """
    return (1.0 - weight) * start + weight * end


def isfinite(x: Any) -> Any:
    """True where x is neither infinite nor NaN."""
    return _call("isfinite", x)


def sum(x: Any, over: Over = "tensor") -> Any:
    """Sum over the tensor, each of its rows or columns, or all tensors of the optimizer.

    A row is ``x[i]``, taken along the first axis, with all that is in it; a column is
    ``x[:, j, ...]``. Results broadcast against the tensor. Sums are accumulated in float64.
    """
    return _call("sum", x, over=_checked_over(over))


def size(x: Any, over: Over = "tensor") -> Any:
    """How many elements ``sum(x, over)`` adds up."""
    return _call("size", x, over=_checked_over(over))


def mean(x: Any, over: Over = "tensor") -> Any:
    """Arithmetic mean; ``over`` as in `sum`."""
    return _call("div", sum(x, over), size(x, over))


def norm(x: Any, over: Over = "tensor") -> Any:
    """Euclidean (Frobenius) norm; ``over`` as in `sum`. Squares are formed in float64."""
    return sqrt(_call("sum_squares", x, over=_checked_over(over)))


def max_abs(x: Any, over: Over = "tensor") -> Any:
    """Largest absolute value, NaN if any element is NaN; 0 of nothing; ``over`` as in `sum`."""
    return _call("max_abs", x, over=_checked_over(over))


def uniform(like: Any) -> Any:
    """Uniform random numbers in [0, 1), of the shape of ``like``.

    Counter-based (Threefry-2x32, Salmon et al. 2011): each number depends on the optimizer's
    seed, the parameter, the step and the element's position alone.
    """
    return _call("uniform", like)


def normal(like: Any) -> Any:
    """Standard normal random numbers, of the shape of ``like``; see `uniform`."""
    return _call("normal", like)


def is_number(value: Any) -> bool:
    """Whether a value is a plain real number (a bool is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a plain, finite real number."""
    return is_number(value) and math.isfinite(value)
