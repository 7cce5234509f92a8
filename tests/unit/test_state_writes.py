"""Writes to a view's state are checked for all of it before the first one is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch

import pellucid
from pellucid import Adam
from pellucid.access.errors import UnknownNameError

HUGE = 10**400


class Strange:
    pass


def stepped(*kinds: Any) -> tuple[Any, Any]:
    """Torch's Adam after an update of one parameter of each dtype, and a view of it."""
    params = [torch.nn.Parameter(torch.ones(2, dtype=kind)) for kind in kinds]
    optimizer = torch.optim.Adam(params, 1e-3)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    return optimizer, pellucid.view(optimizer)


def held(view: Any) -> dict[str, Any]:
    return {
        path: value.clone() if hasattr(value, "clone") else value
        for path, value in view.state.items()
    }


def refused(view: Any, path: str, value: Any, kind: Any, *said: str) -> None:
    """An assignment fails, tells what is wrong, and has changed nothing."""
    before = held(view)
    with pytest.raises(kind) as found:
        view.state[path] = value
    for text in said:
        assert text in str(found.value)
    after = held(view)
    for path, one in before.items():
        assert one is after[path] or bool(
            (torch.as_tensor(one) == torch.as_tensor(after[path])).all()
        )


@pytest.mark.parametrize(("kind", "wrong"), [(torch.float16, 1e6), (torch.bfloat16, 3.4e38)])
def test_number_beyond_the_range_of_one(kind: Any, wrong: float) -> None:
    _, view = stepped(torch.float64, torch.float32, kind)
    most = torch.finfo(kind).max
    refused(
        view, "exp_avg", wrong, ValueError,
        f"param_2/first_moment is {wrong!r}", f"allowed is a finite number from {-most} to {most}",
    )  # fmt: skip
    refused(view, "exp_avg", -1e300, ValueError, "-1e+300")
    refused(view, "exp_avg", HUGE, ValueError, "allowed is")
    view.state["exp_avg"] = -most
    assert {float(one.min()) for one in view.state["exp_avg"].values()} == {-most}
    view.state["exp_avg"] = float("inf")  # which all of them have
    assert all(one.isinf().all() for one in view.state["exp_avg"].values())


def test_number_beyond_the_range_of_ours() -> None:
    params = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2).double())]
    optimizer = pellucid.torch.Optimizer(params, Adam())
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    refused(pellucid.view(optimizer), "first_moment", 1e39, ValueError, "1e+39", "allowed is")


def test_whole_numbers() -> None:
    optimizer, view = stepped(torch.float32, torch.float32, torch.float32)
    states = list(optimizer.state.values())
    states[1]["step"], states[2]["step"] = 1, torch.tensor(1)
    refused(view, "step", 2.5, ValueError, "param_1/step is 2.5", "allowed is a whole number")
    refused(view, "step", float("nan"), ValueError, "param_1/step is nan", "whole number")
    refused(view, "param_2/step", 2.5, ValueError, "param_2/step is 2.5", "whole number")
    refused(view, "param_2/step", 2**63, ValueError, "from -9223372036854775808")
    view.state["step"] = 7.0
    assert [float(one["step"]) for one in states] == [7, 7, 7]
    assert type(states[1]["step"]) is int
    states[1]["step"] = 1.0
    refused(view, "step", HUGE, ValueError, "allowed is a finite number")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (Strange(), "Strange"), ("text", "str"), (True, "bool"), (1j, "complex"),
        (torch.eye(2).to_sparse(), "Tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_written(wrong: Any, kind: str) -> None:
    optimizer, view = stepped(torch.float32, torch.float32)
    first, second = optimizer.state.values()
    first["kept"], second["kept"] = torch.zeros(2), wrong
    before = first["kept"]
    with pytest.raises(TypeError, match=f"param_1/kept is a {kind} .*given int 3; allowed are"):
        view.state["kept"] = 3
    assert not before.any()
    assert second["kept"] is wrong


def test_places_that_cannot_be_written() -> None:
    optimizer, view = stepped(torch.float32, torch.float32)
    first, second = optimizer.state.values()
    first["kept"], second["kept"] = [1.0], (1.0,)  # a number in a tuple stays
    refused(view, "kept[0]", 2.0, TypeError, "param_1/kept[0]", "2", "allowed are")
    fixed = numpy.zeros(2)
    fixed.flags.writeable = False
    first["kept"], second["kept"] = [numpy.zeros(2)], (fixed,)
    refused(view, "kept[0]", 2.0, TypeError, "param_1/kept[0]", "2", "allowed are")
    fixed.flags.writeable = True
    view.state["kept[0]"] = 2.0
    assert first["kept"][0].tolist() == fixed.tolist() == [2, 2]
    view.state["param_0/kept[0]"] = numpy.ones(2)
    assert first["kept"][0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("dtype", "wrong", "right"),
    [
        ("float16", 1e6, 6e4),
        ("int8", 200, 100),
        ("uint8", -1, 3),
        ("int32", 0.5, 5),
        ("bool", 2, 1),
    ],
)
def test_ranges_of_others(dtype: str, wrong: float, right: float) -> None:
    for make in (
        lambda: numpy.zeros(2, dtype), lambda: torch.zeros(2, dtype=getattr(torch, dtype)),
    ):  # fmt: skip
        optimizer, view = stepped(torch.float32, torch.float32)
        first, second = optimizer.state.values()
        first["kept"], second["kept"] = torch.zeros(2), make()
        refused(view, "kept", wrong, ValueError, "param_1/kept is", repr(wrong), "allowed is a")
        view.state["kept"] = right
        assert float(second["kept"][0]) == float(torch.tensor(right).to(getattr(torch, dtype)))


@pytest.mark.parametrize("make", [lambda: None, Strange, lambda: "text"])
def test_a_dict_with_one_wrong_value(make: Callable[[], Any]) -> None:
    _, view = stepped(torch.float32, torch.float32)
    values = {path: one + 1 for path, one in view.state["exp_avg"].items()}
    values[list(values)[-1]] = make()
    refused(view, "exp_avg", values, TypeError, "param_1/first_moment", "allowed is a number")


def test_a_value_that_is_none_is_said_to_be() -> None:
    optimizer, view = stepped(torch.float32)
    next(iter(optimizer.state.values()))["n"] = None
    for path in ("param_0/n", "n"):
        with pytest.raises(UnknownNameError, match=f"'{path}': it is None"):
            view.state[path]
    with pytest.raises(UnknownNameError, match="it is None"):
        view.state["param_0/n"] = 3
