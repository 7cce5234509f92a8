"""Constructor arguments that objects do not keep."""

from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import pickle
import sys
import weakref
from typing import Any

import equinox
import jax
import pytest
import torch
from flax import nnx

from pellucid.run.capturing import arguments_of, capture, captured_functions


@capture
class Net(torch.nn.Module):
    """A net."""

    def __init__(
        self, width: int, /, rate: float = 0.1, *sizes: int, bias: bool = True, **more: Any
    ):
        super().__init__()
        self.inner = torch.nn.Linear(2, width)


class Wide(Net):
    def __init__(self, factor: int) -> None:
        super().__init__(factor * 2, 0.5)


class Same(Net):
    pass


@capture
class Chain(torch.nn.Sequential):
    pass


@capture
class Equal:
    """Equal to others, so that it has no hash; its arrays are not even comparable."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")


def kept(one: Any) -> tuple[dict[str, Any], set[str]]:
    arguments = arguments_of(one)
    assert arguments is not None
    return arguments.values, set(arguments.given)


def test_arguments_with_what_was_passed() -> None:
    assert kept(Net(3)) == ({"width": 3, "rate": 0.1, "bias": True}, {"width"})
    net = Net(3, 0.1, 4, 5, depth=2)
    assert kept(net) == (
        {"width": 3, "rate": 0.1, "sizes": (4, 5), "bias": True, "depth": 2},
        {"width", "rate", "sizes", "depth"},
    )
    arguments = arguments_of(net)
    assert arguments is not None
    assert (arguments.args, arguments.kwargs) == ((3, 0.1, 4, 5), {"depth": 2})
    assert not arguments.told


def test_subclasses_are_captured_by_their_own() -> None:
    assert kept(Wide(3)) == ({"factor": 3}, {"factor"})
    assert kept(Same(3, bias=False)) == (
        {"width": 3, "rate": 0.1, "bias": False}, {"width", "bias"},
    )  # fmt: skip
    assert kept(Chain(torch.nn.ReLU())) == (
        {"args": ({"class": "torch.nn.modules.activation.ReLU"},)}, {"args"},
    )  # fmt: skip


def test_the_class_stays_itself() -> None:
    assert Net.__name__ == "Net"
    assert Net.__doc__ == "A net."
    signature = str(inspect.signature(Net)).replace("'", "")
    assert signature.startswith("(width: int, /, rate: float = 0.1, *sizes: int, bias: bool = True")
    assert inspect.getfullargspec(Net.__init__).args == ["self", "width", "rate"]
    net = Net(3)
    assert type(net) is Net
    again = pickle.loads(pickle.dumps(net))
    assert type(again) is Net
    assert arguments_of(again) is None
    assert "pellucid" not in repr(net.__dict__)
    assert type(copy.deepcopy(net)) is Net
    with pytest.raises(TypeError, match="width"):
        Net()  # type: ignore[call-arg]


def test_capturing_twice_is_capturing_once() -> None:
    before = Net.__init__
    assert capture(Net) is Net
    assert Net.__init__ is before


def test_values_are_data_and_nothing_is_kept_alive() -> None:
    weights, layer = torch.ones(2), torch.nn.Linear(2, 2)
    net = Net(3, weights=weights, layer=layer, api_key="sk", sizes=[1, 2])
    values, _ = kept(net)
    assert values["weights"]["shape"] == [2]
    assert values["layer"] == {"class": "torch.nn.modules.linear.Linear"}
    assert values["api_key"] == "***"
    arguments = arguments_of(net)
    assert arguments is not None
    assert arguments.told == {"weights", "layer", "api_key"}
    gone = [weakref.ref(one) for one in (net, weights, layer)]
    number = id(net)
    del net, weights, layer
    gc.collect()
    assert [one() for one in gone] == [None] * 3
    from pellucid.run import capturing

    assert number not in capturing._KEPT


def test_changed_lists_do_not_change_what_was_captured() -> None:
    sizes = [1, 2]
    one = Equal({"sizes": sizes})
    sizes.append(3)
    assert kept(one) == ({"values": {"sizes": [1, 2]}}, {"values"})


def test_objects_without_a_hash() -> None:
    one, other = Equal(1), Equal(2)
    assert (kept(one)[0], kept(other)[0]) == ({"values": 1}, {"values": 2})
    assert arguments_of(object()) is None
    assert arguments_of(3) is None


def test_a_constructor_that_makes_others_and_fails() -> None:
    @capture
    class Pair:
        def __init__(self, left: Any, fail: bool = False) -> None:
            self.left = Pair(left - 1) if left else None
            if fail:
                raise RuntimeError("half made")

    with pytest.raises(RuntimeError, match="half made"):
        Pair(1, fail=True)
    pair = Pair(1)
    assert kept(pair)[0] == {"left": 1, "fail": False}
    assert kept(pair.left)[0] == {"left": 0, "fail": False}


def test_refusals() -> None:
    class Slotted:
        __slots__ = ("x",)

        def __init__(self, x: int) -> None:
            self.x = x

    with pytest.raises(TypeError, match="add it, so that"):
        capture(Slotted)
    with pytest.raises(TypeError, match="cannot be captured"):
        capture(int)
    with pytest.raises(TypeError, match=r"an object of torch\.nn\.modules\.linear\.Linear"):
        capture(torch.nn.Linear(2, 2))


def test_equinox_and_flax() -> None:
    @capture
    class Made(equinox.Module):
        width: int
        rate: float = 0.1

    @capture
    class Written(equinox.Module):
        width: int
        inner: equinox.nn.Linear

        def __init__(self, width: int, *, key: Any) -> None:
            self.width, self.inner = width, equinox.nn.Linear(2, width, key=key)

    class Below(Written):
        def __init__(self, key: Any) -> None:
            super().__init__(7, key=key)

    @capture
    class Flax(nnx.Module):
        def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
            self.inner = nnx.Linear(2, width, rngs=rngs)

    assert kept(Made(3)) == ({"width": 3, "rate": 0.1}, {"width"})
    values, given = kept(Written(3, key=jax.random.key(0)))
    assert (values["width"], values["key"]["dtype"], given) == (3, "key<fry>", {"width", "key"})
    assert [*kept(Below(jax.random.key(0)))[0]] == ["key"]
    flax = Flax(3, rngs=nnx.Rngs(0))
    assert kept(flax) == (
        {"width": 3, "rngs": {"class": "flax.nnx.rnglib.Rngs"}}, {"width", "rngs"},
    )  # fmt: skip
    nnx.split(flax)


def test_functions() -> None:
    @capture
    def train(steps: int, rate: float = 0.1, **more: Any) -> int:
        """Train."""
        return steps

    name = f"{__name__}:test_functions.<locals>.train"
    assert name not in captured_functions()
    assert (train(3), train(4, depth=2)) == (3, 4)
    assert (train.__name__, train.__doc__) == ("train", "Train.")
    found = captured_functions()[name]
    assert found.values == {"steps": 4, "rate": 0.1, "depth": 2}
    assert found.given == {"steps", "depth"}
    with pytest.raises(TypeError, match="missing"):
        train()  # type: ignore[call-arg]
    assert captured_functions()[name] is found


def test_context_keeps_what_is_made_inside() -> None:
    class Plain:
        def __init__(self, width: int, rate: float = 0.1, *rest: int, deep: bool = False) -> None:
            width = rate = 0
            self.sum = width + rate

    class Below(Plain):
        def __init__(self, factor: int) -> None:
            super().__init__(factor * 2)

    @dataclasses.dataclass
    class Data:
        width: int
        rate: float = 0.1

    outside = Plain(1)
    with capture():
        plain, below, data = Plain(2, 0.5, 3, deep=True), Below(4), Data(5)
        net, wide = torch.nn.Linear(2, 3, bias=False), Wide(3)
        flax = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        equinoxs = equinox.nn.Linear(2, 3, key=jax.random.key(0))
    after = Plain(1)
    assert arguments_of(outside) is None
    assert arguments_of(after) is None
    assert kept(plain) == (
        {"width": 2, "rate": 0.5, "rest": (3,), "deep": True}, {"width", "rate", "rest", "deep"},
    )  # fmt: skip
    assert kept(below) == ({"factor": 4}, {"factor"})
    assert kept(data) == ({"width": 5, "rate": 0.1}, {"width"})
    assert kept(net) == (
        {"in_features": 2, "out_features": 3, "bias": False, "device": None, "dtype": None},
        {"in_features", "out_features", "bias"},
    )
    assert kept(wide) == ({"factor": 3}, {"factor"})
    assert kept(flax)[1] == {"in_features", "out_features", "rngs"}
    assert kept(equinoxs)[1] == {"in_features", "out_features", "key"}


def test_context_calls_on_and_restores_a_profiler() -> None:
    seen: list[str] = []

    def profiler(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        with capture(), capture():
            net = torch.nn.Linear(2, 3)
        restored = sys.getprofile()
    finally:
        sys.setprofile(before)
    assert restored is profiler
    assert "reset_parameters" in seen
    assert kept(net)[0]["out_features"] == 3
    with pytest.raises(RuntimeError, match="inside"), capture():
        raise RuntimeError("inside")
    assert sys.getprofile() is before


def test_cycles_do_not_break_the_constructor() -> None:
    settings: dict[str, Any] = {"width": 3}
    settings["itself"] = [settings]
    net = Net(3, extra=settings)
    assert kept(net)[0]["extra"] == {"width": 3, "itself": [{"cycle": "dict"}]}
    with capture():
        assert kept(Net(3, extra=settings))[0]["extra"]["width"] == 3


def test_a_container_with_a_secrets_name_is_masked_whole() -> None:
    net = Net(3, credentials=["abc"], cloud={"passwords": ("abc",)})
    assert kept(net)[0]["credentials"] == "***"
    assert kept(net)[0]["cloud"] == {"passwords": "***"}
