"""Norms, changes, counts and samples of many arrays, each number of memory read once.

Sums are in float64 and in a fixed order: results depend neither on the number of threads nor on
how the work is cut. Dense float32 and float64 arrays in the processor's memory run compiled;
others go through their own library's operators, one after the other.
"""

# ruff: noqa: F821  (functions that run compiled use names that the compiler supplies)

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy

from pellucid.fuse.cache import compiled
from pellucid.fuse.pool import Block, run_blocks

__all__ = ["SAMPLE", "Change", "Squares", "Survey", "copies", "quantiles_of_rate"]

SAMPLE = 4096
"""The most elements that quantiles are taken of."""
CHUNK = 262144  # elements
PIECE = 33554432  # bytes that are copied at once
WIDTHS = {numpy.dtype(name): name for name in ("float32", "float64")}
TINY, HUGE = 1e-280, 1e290
"""Sums of squares beyond these may have lost something: taken again, scaled."""

# -- compiled --------------------------------------------------------------------------------

add_in_any_order: Any  # these names are the compiler's: see `pellucid.fuse.runtime.namespace`
load_0: Any
pointer_0: Any
store_0: Any


def squares(first, last, chunks, items, limits, partials):  # type: ignore[no-untyped-def]
    """Of each chunk: the sum of squares, how many are below a limit, and its share of a sample."""
    for c in range(first, last):
        item, begin = chunks[c, 0], chunks[c, 1]
        end = begin + chunks[c, 2]
        x = pointer_0(items[item, 0])
        limit = limits[item]
        total = 0.0
        below = 0
        part = (end - begin) // 4  # four streams are read faster than one
        second, third, fourth = begin + part, begin + 2 * part, begin + 3 * part
        if limit >= 0.0:
            for i in range(part):
                a, b = 1.0 * load_0(x, begin + i), 1.0 * load_0(x, second + i)
                d, e = 1.0 * load_0(x, third + i), 1.0 * load_0(x, fourth + i)
                total = add_in_any_order(total, (a * a + b * b) + (d * d + e * e))
                below += int(a < limit) + int(b < limit) + int(d < limit) + int(e < limit)
        else:
            for i in range(part):
                a, b = 1.0 * load_0(x, begin + i), 1.0 * load_0(x, second + i)
                d, e = 1.0 * load_0(x, third + i), 1.0 * load_0(x, fourth + i)
                total = add_in_any_order(total, (a * a + b * b) + (d * d + e * e))
        for i in range(fourth + part, end):
            value = 1.0 * load_0(x, i)
            total = add_in_any_order(total, value * value)
            below += int(value < limit)
        partials[c, 0] = total
        partials[c, 1] = below
        stride = items[item, 2]
        if stride > 0:
            out = pointer_0(items[item, 1])
            for k in range((begin + stride - 1) // stride, (end + stride - 1) // stride):
                store_0(out, k, load_0(x, k * stride))


def changes(first, last, chunks, items, limits, partials):  # type: ignore[no-untyped-def]
    """Of each chunk: squares of new, change, old and gradient, and change times gradient."""
    for c in range(first, last):
        item, begin = chunks[c, 0], chunks[c, 1]
        end = begin + chunks[c, 2]
        at_new, at_old = pointer_0(items[item, 0]), pointer_0(items[item, 1])
        at_grad = pointer_0(items[item, 2])
        news = 0.0
        moved = 0.0
        olds = 0.0
        grads = 0.0
        along = 0.0
        for i in range(begin, end):
            new = 1.0 * load_0(at_new, i)
            old = 1.0 * load_0(at_old, i)
            grad = 1.0 * load_0(at_grad, i)
            change = new - old
            news = add_in_any_order(news, new * new)
            moved = add_in_any_order(moved, change * change)
            olds = add_in_any_order(olds, old * old)
            grads = add_in_any_order(grads, grad * grad)
            along = add_in_any_order(along, change * grad)
        partials[c, 0] = news
        partials[c, 1] = moved
        partials[c, 2] = olds
        partials[c, 3] = grads
        partials[c, 4] = along


@cache
def _kernel(function: Callable[..., Any], width: str) -> Any:
    from numba import float64, int64, types

    from pellucid.fuse import runtime

    ints = int64[:, ::1]
    return compiled(
        f"# storage {width}\n{inspect.getsource(function)}",
        function.__name__,
        lambda: runtime.namespace(width, {0: width}),
        types.void(int64, int64, ints, ints, float64[::1], float64[:, ::1]),
        runtime.FLAGS,
    )


# -- arrays ----------------------------------------------------------------------------------


def _host(array: Any) -> Any:
    """A NumPy view of an array in the processor's memory, or None."""
    if isinstance(array, numpy.ndarray):
        return array
    if not hasattr(array, "detach"):  # Keras's Variables give a copy
        known = isinstance(array, numpy.generic) or hasattr(array, "__array__")
        return numpy.asarray(array) if known else None
    try:
        return array.detach().numpy()
    except (TypeError, RuntimeError, ValueError, AttributeError, NotImplementedError):
        return None  # on another device, sparse, or of a type that NumPy lacks


def _flat(array: Any) -> Any:
    """The numbers as they lie in memory, complex ones as pairs; None unless dense float32/64."""
    if array is None or not array.dtype.isnative:
        return None
    if not array.flags.c_contiguous:
        array = array.transpose(_order(array))
        if not array.flags.c_contiguous:
            return None
    if array.dtype.kind == "c" and array.itemsize <= 16:
        array = array.reshape(-1).view(array.real.dtype)
    if array.dtype not in WIDTHS or not array.flags.aligned:
        return None
    return array.reshape(-1)


def _order(array: Any) -> list[int]:
    """The axes, slowest in memory first."""
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def wide(array: Any) -> Any:
    """All numbers in float64 and in logical order, complex ones as pairs; of its own library."""
    seen = _host(array)
    if seen is None:
        seen = array.detach()
        if seen.is_sparse or str(seen.layout) != "torch.strided":
            seen = seen.to_dense()
        if seen.is_quantized:
            seen = seen.dequantize()
        if seen.is_complex():
            seen = sys.modules["torch"].view_as_real(seen.resolve_conj())
        try:
            seen = seen.double()
        except (TypeError, RuntimeError):  # a device without float64
            seen = seen.cpu().double()
        on_host = _host(seen.resolve_neg())
        return seen.reshape(-1) if on_host is None else on_host.reshape(-1)
    if seen.dtype.kind == "c":
        seen = numpy.ascontiguousarray(seen).reshape(-1)
        seen = seen.view(seen.real.dtype)
    return seen.astype(numpy.float64).reshape(-1)


def _norm(x: Any) -> float:
    """Beyond the range of squares, too."""
    if not len(x):
        return 0.0
    with numpy.errstate(all="ignore"):
        largest = float(abs(x).max())
        if largest == 0 or not math.isfinite(largest):
            return largest
        scaled = x / largest
        return largest * math.sqrt(float((scaled * scaled).sum()))


def _cosine(x: Any, y: Any) -> float | None:
    with numpy.errstate(all="ignore"):
        sizes = _norm(x), _norm(y)
        if 0 in sizes or not all(map(math.isfinite, sizes)):
            return None
        return _within(float(((x / sizes[0]) * (y / sizes[1])).sum()))


def _within(cosine: float) -> float:
    return max(-1.0, min(1.0, cosine))


def _nonfinite(x: Any) -> int:
    with numpy.errstate(all="ignore"):
        return int((x - x != 0).sum())


def _stride(size: int) -> int:
    """Between the elements of a sample: shares no factor with the size, so none with a row."""
    stride = max(1, -(-size // SAMPLE))
    while stride > 1 and math.gcd(stride, size) != 1:
        stride += 1
    return stride


def _all_sound(totals: Iterable[float], width: str) -> bool:
    """Whether sums of squares are exact enough: float32's squares always fit."""
    return all(
        math.isfinite(t) and (width == "float32" or TINY < t < HUGE) for t in totals
    )


# -- what is measured ------------------------------------------------------------------------


@dataclass
class Squares:
    """One array."""

    norm: float = 0.0
    nonfinite: int = 0  # how many are NaN or infinite
    below: int = 0  # how many are below the limit
    sample: Any = None  # elements, in order of memory

    def look(self, array: Any, limit: float, sampled: bool) -> None:
        """Measure through the array's own library."""
        x = wide(array)
        self.norm, self.nonfinite = _norm(x), _nonfinite(x)
        self.below = int((x < limit).sum()) if limit >= 0 else 0
        if sampled:
            self.sample = numpy.array(x[:: _stride(len(x))].tolist())


@dataclass
class Change:
    """A parameter before and after, and its gradient."""

    norm: float = 0.0
    nonfinite: int = 0
    update_norm: float = 0.0
    old_norm: float = 0.0
    grad_norm: float | None = None
    grad_nonfinite: int = 0
    cosine: float | None = None  # of the change and the gradient's opposite

    def look(self, new: Any, old: Any, grad: Any) -> None:
        """Measure through the arrays' own library."""
        after, before = wide(new), wide(old)
        with numpy.errstate(all="ignore"):
            change = after - before
        self.norm, self.nonfinite = _norm(after), _nonfinite(after)
        self.update_norm, self.old_norm = _norm(change), _norm(before)
        if grad is not None:
            g = wide(grad)
            self.grad_norm, self.grad_nonfinite = _norm(g), _nonfinite(g)
            self.cosine = _cosine(change, -g)


@dataclass
class _Item:
    width: str
    size: int
    addresses: tuple[int, int, int]
    limit: float
    kept: tuple[Any, ...]  # arrays that must live until the end
    finish: Callable[[Sequence[float]], None]


class Survey:
    """Arrays to be measured: first all are named, then `run` reads them."""

    def __init__(self) -> None:
        self._items: dict[tuple[Callable[..., Any], str], list[_Item]] = {}
        self._slow: list[tuple[Squares | Change, Callable[[], None]]] = []
        self.failed: list[tuple[Squares | Change, Exception]] = []

    def squares(self, array: Any, limit: float = -1.0, sampled: bool = False) -> Squares:
        """Measure an array by itself; a limit below 0 is none."""
        made = Squares()
        flat = _flat(_host(array))
        if flat is None:
            self._slow.append((made, lambda: made.look(array, limit, sampled)))
            return made
        size, width, stride = len(flat), WIDTHS[flat.dtype], 0
        if sampled:
            stride = _stride(size)
            made.sample = numpy.empty(-(-size // stride), flat.dtype)

        def finish(sums: Sequence[float]) -> None:
            if _all_sound(sums[:1], width):
                made.norm, made.below = math.sqrt(sums[0]), int(sums[1])
            else:
                made.look(array, limit, False)

        out = made.sample.ctypes.data if sampled else 0
        addresses = (flat.ctypes.data, out, stride)
        item = _Item(width, size, addresses, limit, (flat, made.sample), finish)
        self._items.setdefault((squares, width), []).append(item)
        return made

    def change(self, new: Any, old: Any, grad: Any) -> Change:
        """Measure a parameter, what it was (of `copies`) and its gradient, if it has one."""
        made = Change()
        here, before = _host(new), _host(old)
        along = here if grad is None else _host(grad)
        flats = [_flat(one) for one in (here, before, along)]
        if any(flat is None for flat in flats) or not _alike(here, before):
            self._slow.append((made, lambda: made.look(new, old, grad)))
            return made
        if not _alike(here, along):
            if along.shape != here.shape or along.dtype != here.dtype:
                self._slow.append((made, lambda: made.look(new, old, grad)))
                return made
            laid_out = numpy.empty_like(here)
            laid_out[...] = along
            along, flats[2] = laid_out, _flat(laid_out)
        width = WIDTHS[flats[0].dtype]

        def finish(sums: Sequence[float]) -> None:
            # an untouched parameter or a gradient of zeros is usual, and exact
            doubtful = [s for s in sums[:4] if s != 0]
            if not _all_sound(doubtful, width) or (width == "float64" and 0 in sums[:4]):
                made.look(new, old, grad)
                return
            made.norm, made.update_norm, made.old_norm, size = map(math.sqrt, sums[:4])
            if grad is not None:
                made.grad_norm = size
                if size and made.update_norm:
                    made.cosine = _within(-sums[4] / (size * made.update_norm))

        first, second, third = (flat.ctypes.data for flat in flats)
        item = _Item(width, len(flats[0]), (first, second, third), -1.0, tuple(flats), finish)
        self._items.setdefault((changes, width), []).append(item)
        return made

    def run(self, threads: int) -> None:
        """Read all, and fill in what was asked for."""
        tables = [_Table(*key, items) for key, items in self._items.items()]
        count = threads if sum(map(len, tables)) >= CHUNK else 1
        work = sum(map(len, tables)) // (8 * count)
        run_blocks([block for table in tables for block in table.blocks(work)], count)
        for table in tables:
            table.finish()
        for made, look in self._slow:
            try:
                look()
            except Exception as error:  # whatever a foreign array cannot do
                self.failed.append((made, error))


class _Table:
    """What one kernel reads."""

    def __init__(self, function: Callable[..., Any], width: str, items: Sequence[_Item]) -> None:
        self.items = items
        self.kernel = _kernel(function, width)
        self.chunks, self.spans = _cut([item.size for item in items])
        self.partials = numpy.zeros((len(self.chunks), 5))
        self.addresses = numpy.array([item.addresses for item in items], numpy.int64)
        self.limits = numpy.array([item.limit for item in items])

    def __len__(self) -> int:
        """Elements."""
        return sum(item.size for item in self.items)

    def blocks(self, wanted: int) -> Iterator[Block]:
        """Pieces of about as many elements as wanted, so that threads seldom change over."""
        arguments = (self.chunks, self.addresses, self.limits, self.partials)
        first = work = 0
        for number, size in enumerate(self.chunks[:, 2].tolist(), 1):
            work += size
            if work >= wanted or number == len(self.chunks):
                yield self.kernel, first, number, arguments
                first, work = number, 0

    def finish(self) -> None:
        """Combine the chunks' sums, in order."""
        rows = self.partials.tolist()
        for item, (first, last) in zip(self.items, self.spans, strict=True):
            if last - first == 1:
                item.finish(rows[first])
            else:
                item.finish([_total([row[k] for row in rows[first:last]]) for k in range(5)])


def _total(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) if all(map(math.isfinite, numbers)) else sum(numbers)


def _alike(one: Any, other: Any) -> bool:
    """Whether two arrays' numbers lie in memory in the same order."""
    return bool(
        one.shape == other.shape
        and one.dtype == other.dtype
        and (one.strides == other.strides or (one.flags.c_contiguous and other.flags.c_contiguous))
    )


def _cut(sizes: Sequence[int]) -> tuple[Any, list[tuple[int, int]]]:
    """Chunks (item, start, count), and the first and last of each item."""
    pieces: list[tuple[int, int, int]] = []
    spans = []
    for item, size in enumerate(sizes):
        first = len(pieces)
        pieces += [(item, at, min(CHUNK, size - at)) for at in range(0, size, CHUNK)]
        spans.append((first, len(pieces)))
    return numpy.array(pieces, numpy.int64).reshape(-1, 3), spans


# -- copies and quantiles --------------------------------------------------------------------


def copies(arrays: Sequence[Any], threads: int, buffer: Any = None) -> tuple[list[Any], Any]:
    """A copy of each array, laid out as it is; what cannot be copied is None.

    The second result is the memory of the copies: given again it is used again if it suffices,
    which spares the system's work of mapping it, about as long as the copying.
    """
    seen = [_host(array) for array in arrays]
    flats = [_flat(one) for one in seen]
    starts, total = [], 0
    for flat in flats:
        starts.append(total)
        total += 0 if flat is None else -(-flat.nbytes // 64) * 64
    if buffer is None or len(buffer) < total:
        buffer = numpy.empty(total, numpy.uint8)  # one large piece has large pages
    found: list[Any] = []
    blocks: list[Block] = []
    for array, here, flat, start in zip(arrays, seen, flats, starts, strict=True):
        if flat is None:
            found.append(_cloned(array))
            continue
        raw = buffer[start : start + flat.nbytes]
        source = flat.view(numpy.uint8)
        for at in range(0, flat.nbytes, PIECE):
            blocks.append((_copy, at, min(at + PIECE, flat.nbytes), (raw, source)))
        order = _order(here) if not here.flags.c_contiguous else list(range(here.ndim))
        shaped = raw.view(here.dtype).reshape([here.shape[axis] for axis in order])
        found.append(shaped.transpose(numpy.argsort(order)) if order else shaped)
    run_blocks(blocks, threads if total > PIECE else 1)
    return found, buffer


def _copy(first: int, last: int, into: Any, source: Any) -> None:
    into[first:last] = source[first:last]


def _cloned(array: Any) -> Any:
    if array is None:
        return None
    try:
        return array.detach().clone() if hasattr(array, "detach") else array.copy()
    except (AttributeError, TypeError, RuntimeError, NotImplementedError):
        return None


def quantiles_of_rate(
    sample: Any, learning_rate: float, epsilon: float, correction: float
) -> tuple[float, ...] | None:
    """Quantiles of learning_rate / (sqrt(v / correction) + epsilon), as numpy.quantile has them.

    Positions 0, 25, 50, 75 and 100 %; None if no number of the sample is finite.
    """
    held = sample[numpy.isfinite(sample)] if not numpy.isfinite(sample).all() else sample
    if not len(held):
        return None
    ordered = numpy.sort(held)[::-1]  # the largest second moment has the smallest rate
    found = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        position = share * (len(ordered) - 1)
        low = math.floor(position)
        rates = []
        for at in (low, min(low + 1, len(ordered) - 1)):
            root = math.sqrt(max(float(ordered[at]), 0.0) / correction) + epsilon
            rates.append(learning_rate / root if root else math.inf)
        part = position - low
        same = part == 0 or rates[0] == rates[1]
        found.append(rates[0] if same else rates[0] + part * (rates[1] - rates[0]))
    if learning_rate < 0:
        found.reverse()
    return tuple(found)
