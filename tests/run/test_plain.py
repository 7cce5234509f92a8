"""Any value as JSON data."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy
import pytest
import torch

from pellucid.run.plain import MASK, is_secret, plain


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Settings:
    width: int
    api_key: str = "sk-1"


class Closed:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


class Said:
    def __repr__(self) -> str:
        return "Said(password='hunter2', token=abc, rate=3)"


def digest(array: Any) -> str:
    return hashlib.sha256(numpy.ascontiguousarray(array).tobytes()).hexdigest()[:16]


ONES = numpy.ones((2, 3), numpy.float32)
Point = collections.namedtuple("Point", "x y")

CASES: list[tuple[Any, Any]] = [
    (None, None), (True, True), (3, 3), (0.5, 0.5), ("text", "text"), (-(10**40), -(10**40)),
    (math.nan, "nan"), (-math.inf, "-inf"), (1 + 2j, "(1+2j)"),
    (numpy.float32(0.5), 0.5), (numpy.int64(3), 3), (numpy.bool_(True), True),
    (numpy.dtype("float32"), "float32"), (torch.bfloat16, "torch.bfloat16"),
    (torch.Size([2]), [2]), ((1, (2,)), [1, [2]]), ({2, 1}, [1, 2]), (range(3), "range(0, 3)"),
    ({"a": {"b": 1}, 2: 3}, {"a": {"b": 1}, "2": 3}), (Color.RED, "red"),
    (Point(1, 2), {"x": 1, "y": 2}), (Path("a/b"), "a/b"),
    (torch.nn.Linear, "torch.nn.modules.linear.Linear"),
    (argparse.Namespace(a=1, password="x"), {"a": 1, "password": MASK}),
    (Settings(3), {"class": "test_plain.Settings", "width": 3, "api_key": MASK}),
    (Said(), {"class": "test_plain.Said", "text": "Said(password=***, token=***, rate=3)"}),
    (b"ab", {"bytes": 2, "digest": hashlib.sha256(b"ab").hexdigest()[:16]}),
    (ONES, {"array": "numpy.ndarray", "shape": [2, 3], "dtype": "float32", "digest": digest(ONES)}),
    (torch.ones(2), {"array": "torch.Tensor", "shape": [2], "dtype": "float32",
                     "digest": digest(numpy.ones(2, numpy.float32))}),
    (torch.ones(2, device="meta"), {"array": "torch.Tensor", "shape": [2], "dtype": "float32"}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted"), CASES, ids=lambda one: type(one).__name__)
def test_values_as_data(value: Any, wanted: Any) -> None:
    found = plain(value)
    assert found == wanted
    assert type(found) is type(wanted)
    json.dumps(found, allow_nan=False)


def test_arrays_of_all_frameworks_have_one_digest() -> None:
    same = [ONES, torch.ones(2, 3), jax.numpy.ones((2, 3))]
    assert {plain(one)["digest"] for one in same} == {digest(ONES)}
    assert plain(torch.zeros(2, 3))["digest"] != digest(ONES)
    halves = torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)
    assert plain(halves[0])["digest"] != plain(halves[1])["digest"]
    assert "digest" not in plain(jax.random.key(0))


def test_functions_are_where_they_are_written() -> None:
    rate, secret_key = 0.5, "s"

    def schedule(step: int) -> float:
        return step * rate + len(secret_key)

    line = schedule.__code__.co_firstlineno
    name = "test_plain:test_functions_are_where_they_are_written.<locals>.schedule"
    assert plain(schedule) == {
        "function": name, "at": f"test_plain.py:{line}", "holds": {"rate": 0.5, "secret_key": MASK},
    }  # fmt: skip
    assert plain(lambda step: step)["function"].endswith("<lambda>")
    assert plain(functools.partial(schedule, 3)) == {
        "partial": plain(schedule), "args": [3], "kwargs": {},
    }  # fmt: skip
    assert plain(numpy.add) == {"function": "numpy:add"}
    assert plain(jax.nn.relu)["function"] == "jax._src.nn.functions:relu"


def test_strangers_do_not_fail() -> None:
    assert plain(Closed())["unreadable"] == "test_plain.Closed"
    assert json.dumps(plain([Closed(), 1])).endswith(", 1]")
    assert plain(object()) == {"class": "object"}
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    assert plain(cycle) == [1, {"again": {"cycle": "list"}}]
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    json.dumps(plain(deep))
    assert plain([[1], [1]]) == [[1], [1]]
    assert len(plain(list(range(5000)))) == 1001
    assert plain("x" * 5000).endswith("(5000 characters)")
    assert plain(10**5000).startswith("0x")
    json.dumps(plain(torch.nn.LazyLinear(3).weight))


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("api_key", True), ("apiKey", True), ("hub_token", True), ("password", True),
        ("WANDB_API_KEY", True), ("auth", True), ("--db-password", True), ("client_secret", True),
        ("max_tokens", False), ("pad_token", False), ("key", False), ("author", False),
        ("secretary", False), ("tokenizer", False),
    ],
)  # fmt: skip
def test_secrets_are_told_by_name(name: str, secret: bool) -> None:
    assert is_secret(name) is secret
    assert (plain("value", name) == MASK) is secret
    assert (plain(7, name) == MASK) is secret
    assert (plain(ONES, name) == MASK) is secret
    assert plain({"in": {name: "value"}}) == {"in": {name: MASK if secret else "value"}}
    assert plain(None, name) is None
    assert plain(True, name) is True
    assert plain("", name) == ""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgres://user:hunter2@host/db", "postgres://user:***@host/db"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("https://ghp_hunter2@github.com/a", "https://***@github.com/a"),
        ("https://a/b?api_key=hunter2&size=3", "https://a/b?api_key=***&size=3"),
        ("Authorization: Bearer hunter2", "Authorization: ***"),
        ("host=a;password='hunter2 x';user=b", "host=a;password=***;user=b"),
        ("x-api-key: hunter2", "x-api-key: ***"),
        ("https://localhost:8080/a", "https://localhost:8080/a"),
        ("ssh://git@github.com/a", "ssh://git@github.com/a"),
        ("eos_token=</s>, token=None: rate=3", "eos_token=</s>, token=None: rate=3"),
    ],
)
def test_secrets_inside_of_texts(text: str, wanted: str) -> None:
    assert plain(text) == plain([text])[0] == wanted


def test_containers_of_secrets_are_masked_whole() -> None:
    assert plain({"api_keys": ["a"], "passwords": {"b": "c"}, "passphrase": "d"}) == {
        "api_keys": MASK, "passwords": MASK, "passphrase": MASK,
    }  # fmt: skip


def connect(api_key: str, size: int) -> None:
    """Of which a partial is made."""


class Host(enum.Enum):
    MAIN = "redis://:hunter2@host"


@pytest.mark.parametrize(
    "value",
    [
        Host.MAIN, {"redis://:hunter2@host": 1}, Path("/a?token=hunter2"),
        functools.partial(connect, "hunter2"),
        functools.partial(connect, size=1, api_key="hunter2"),
    ],
    ids=["enum", "key", "path", "positional", "named"],
)  # fmt: skip
def test_secrets_of_other_values(value: Any) -> None:
    assert "hunter2" not in json.dumps(plain(value))
    assert MASK in json.dumps(plain(value))
