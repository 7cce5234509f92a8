"""Counter-based random numbers: the same on every backend, in any order, on any thread.

Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as
easy as 1, 2, 3"). Written with integer operators alone, so that the one definition serves Python
integers, int64 arrays of any framework, and the compiler.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ROUNDING", "counter_words", "normal_of", "rounding_bits", "tensor_key", "threefry",
    "uniform_of",
]  # fmt: skip

MASK = 0xFFFFFFFF
ROUNDING = 0x7FFFFFFF
"""The stream of the bits that round at random: no stage has it."""
PARITY = 0x1BD11BDA
UNIT = 1.0 / (1 << 24)
TWO_PI = 6.283185307179586


def threefry(key0: Any, key1: Any, count0: Any, count1: Any) -> Any:
    """Two 32-bit words from a key and a counter of two 32-bit words each, all as integers."""
    key2 = key0 ^ key1 ^ PARITY
    x = (count0 + key0) & MASK
    y = (count1 + key1) & MASK
    for group in range(5):
        for turn in range(4):
            if group % 2 == 0:
                bits = 13 if turn == 0 else 15 if turn == 1 else 26 if turn == 2 else 6
            else:
                bits = 17 if turn == 0 else 29 if turn == 1 else 16 if turn == 2 else 24
            x = (x + y) & MASK
            y = (((y << bits) & MASK) | (y >> (32 - bits))) ^ x
        turned = (group + 1) % 3
        first = key0 if turned == 0 else key1 if turned == 1 else key2
        second = key1 if turned == 0 else key2 if turned == 1 else key0
        x = (x + first) & MASK
        y = (y + second + group + 1) & MASK
    return x, y


def tensor_key(seed: Any, stream: Any, parameter: Any, step: Any) -> Any:
    """The key of one tensor's random numbers in one step."""
    return threefry(seed & MASK, ((seed >> 32) & MASK) ^ stream, parameter, step & MASK)


def counter_words(seed: Any, stream: Any, parameter: Any, step: Any, element: Any) -> Any:
    """The two random words of one element."""
    key0, key1 = tensor_key(seed, stream, parameter, step)
    return threefry(key0, key1, element & MASK, element >> 32)


def rounding_bits(key0: Any, key1: Any, element: Any) -> Any:
    """32 bits for one element, from a tensor's key, the upper 16 of which round.

    A hash of two multiplications, a tenth of Threefry's work: a rounding asks for no more. Of a
    tensor with more than 2^32 elements those 2^32 apart get the same.
    """
    x = ((element + key0) * 0x7FEB352D) & MASK
    return (((x ^ (x >> 15)) ^ key1) * 0x846CA68B) & MASK


def uniform_of(words: Any) -> Any:
    """In [0, 1), a multiple of 2^-24: exact in float32."""
    return (words[0] >> 8) * UNIT


def normal_of(words: Any, xp: Any) -> Any:
    """Standard normal, by Box and Muller (1958)."""
    radius = xp.sqrt(-2.0 * xp.log(((words[0] >> 8) + 1) * UNIT))
    return radius * xp.cos((words[1] >> 8) * (TWO_PI * UNIT))
