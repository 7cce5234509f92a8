"""How a view and a difference are shown: tree, HTML, data frame, plain data, comparison."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy
import pandas
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

import pellucid
import pellucid.numpy
import pellucid.torch
from pellucid import SGD, Adam, AdamW, Rule, chain, hyper, ref, route, slot
from pellucid.access.difference import Difference, Row, diff, same
from pellucid.access.plain import json_value, short
from pellucid.access.sources import Cell, Owner
from pellucid.access.table import View
from pellucid.access.tree import folded
from pellucid.changes import Change, Journal
from pellucid.controls import Names, Place
from pellucid.schedules import Cosine, Linear
from pellucid.transforms import skip_nonfinite

SHAPES = {"encoder.weight": (4, 3), "encoder.bias": (4,), "head.weight": (2, 4), "head.bias": (2,)}
NATIVE = {"numpy": "learning_rate", "torch": "learning_rate (lr)"}


def made(
    framework: str,
    stage: Any,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    dtype: str = "float32",
    updates: int = 0,
    **keywords: Any,
) -> Any:
    """An optimizer of ours after some updates."""
    ones = {name: numpy.ones(shape, dtype) for name, shape in shapes.items()}
    if framework == "numpy":
        optimizer: Any = pellucid.numpy.Optimizer(ones, stage, compiled=False, **keywords)
        for _ in range(updates):
            optimizer.step({name: numpy.ones_like(one) for name, one in ones.items()})
        return optimizer
    named = [(name, torch.tensor(one, requires_grad=True)) for name, one in ones.items()]
    optimizer = pellucid.torch.Optimizer(named, stage, compiled=False, **keywords)
    for _, one in named:
        one.grad = torch.ones_like(one)
    for _ in range(updates):
        optimizer.step()
    return optimizer


Make = Callable[..., Any]


@pytest.fixture(params=["numpy", "torch"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(framework: str) -> Make:
    return lambda stage, *args, **keywords: made(framework, stage, *args, **keywords)


class Terminal(io.StringIO):
    """A standard output of old."""

    encoding = "cp1252"


class Reader(HTMLParser):
    """The texts of a page, and its tags; raises where they do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def assert_safe(page: str) -> Reader:
    """No scripts, nothing from elsewhere, well nested."""
    read = Reader(page)
    known = {"div", "table", "thead", "tbody", "tr", "th", "td", "b", "br", "details", "summary"}
    assert read.tags <= known
    assert read.attributes <= {"style", "open"}
    return read


# -- the strangest optimizer -------------------------------------------------------------------


class Broken:
    """An object whose text cannot be had."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


LOOP: list[Any] = [1]
LOOP.append(LOOP)

STRANGE: dict[str, Any] = {
    "nothing": None,
    "text": "exact\x1b[31m\nline",
    "tensor": torch.tensor(0.1),
    "rates": torch.ones(3),
    "complex": torch.tensor(1j),
    "meta": torch.ones((), device="meta"),
    "function": lambda step: 0.5,
    "tuple": (1, (2.5, None), torch.ones(2)),
    "dict": {1: float("nan"), "key": [float("inf")]},
    "object": Broken(),
    "long": "x" * 500,
    "huge": 10**30,
    "hugest": 10**5000,
    "nan": float("nan"),
    "infinity": -float("inf"),
    "scalar": numpy.float32(0.5),
    "loop": LOOP,
    "class": Broken,
    "set": {1},
}


class StrangeGroup:
    index, name, rule, members, size = 0, "<b>group</b>", "Strange", ["a<i>"], 6

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.names = Names({name: Place(name) for name in values}, {})

    def value(self, full: str) -> Any:
        return self.values[full]

    def driver(self, full: str) -> Any:
        return self.values[full] if callable(self.values[full]) else None

    def scheduler(self, full: str) -> str:
        return ""


class StrangeSource:
    """A source as one of an optimizer of others may be."""

    name, title, updates = "Strange", "nobody.Strange<script>", 3

    def __init__(self, values: dict[str, Any] = STRANGE) -> None:
        self.optimizer: Any = SimpleNamespace(defaults={})
        self.values = values
        self.recorded = Journal([Change(1, "g", "lr", float("nan"), float("inf"), "direct write")])
        self.journal = self.recorded

    def groups(self) -> list[Any]:
        return [StrangeGroup(self.values)]

    def owners(self) -> list[Owner]:
        return [Owner("a<i>", "a<i>", 0, None)]

    def array(self, owner: Owner) -> Any:
        return Broken()

    def cells(self, owner: Owner) -> list[Cell]:
        return [Cell(owner.label, n, n, one, "", print) for n, one in self.values.items()]

    def shared_cells(self) -> list[Cell]:
        return [Cell("Strange", "shared", "shared", LOOP, "", print)]


def test_strange_values_are_shown() -> None:
    view = View(StrangeSource())  # type: ignore[arg-type]
    for shown in (repr(view), repr(view.tree()), repr(diff(view, View(StrangeSource({}))))):  # type: ignore[arg-type]
        assert "\x1b" not in shown
        for name in STRANGE:
            assert name in shown
        assert "<Broken>" in shown
    assert "exact\\x1b[31m\\nline" in repr(view.tree())
    for page in (view._repr_html_(), view.tree()._repr_html_(), diff(view, view)._repr_html_()):
        assert_safe(page)
    kinds = view.to_pandas().set_index("path")["kind"]
    assert kinds["<b>group</b>/nothing"] == "option"
    assert kinds["a<i>/rates"] == "state"
    assert kinds["Strange/shared"] == "state"


def test_strange_values_are_plain() -> None:
    view = View(StrangeSource())  # type: ignore[arg-type]
    found = json.loads(view.to_json())
    values = found["groups"][0]["values"]
    assert values["nan"] == "nan"
    assert values["infinity"] == "-inf"
    assert values["tuple"] == [1, [2.5, None], {"shape": [2], "dtype": "float32"}]
    assert values["dict"] == {"1": "nan", "key": ["inf"]}
    assert values["complex"] == {"shape": [], "dtype": "complex64"}
    assert values["object"] == {"repr": "<Broken>"}
    assert values["tensor"] == pytest.approx(0.1)
    assert found["state"]["a<i>/rates"] == {"shape": [3], "dtype": "float32"}
    assert found["state"]["a<i>/tensor"] == {"shape": [], "dtype": "float32"}
    assert found["journal"][0]["old"] == "nan"
    assert found == view.to_dict()


@pytest.mark.parametrize("name", STRANGE)
def test_short_texts(name: str) -> None:
    shown = short(STRANGE[name])
    assert shown.isprintable()
    assert 0 < len(shown) <= 60
    json.dumps(json_value(STRANGE[name]), allow_nan=False)


def test_short_texts_say_what_it_is() -> None:
    found = [short(one) for one in (0.1, 3, torch.tensor(0.25), numpy.zeros((2, 3)), (0.9, None))]
    assert found == ["0.1", "3", "0.25", "(2, 3) float64", "(0.9, None)"]


def test_lists_in_the_state_are_one_line() -> None:
    values = {"step": 1, **{f"al[{n}]": torch.ones(3) for n in range(59)}, "d[0]": 2.0}
    view = View(StrangeSource(values))  # type: ignore[arg-type]
    assert "state: step, al[…] (59), d[0], shared" in repr(view)
    assert "al[…]  59 × (3,) float32" in repr(view.tree())
    assert "al[1]" not in repr(view.tree()).partition("a<i>")[2]
    assert "a<i>/al[58]" in view.to_dict()["state"]


# -- the tree ----------------------------------------------------------------------------------


def test_tree(make: Make, framework: str) -> None:
    optimizer = make(Adam(Cosine(0.1, 100)), groups={"*.bias": {"weight_decay": 0.125}}, updates=1)
    lines = str(pellucid.view(optimizer).tree()).splitlines()
    text = "\n".join(lines)
    assert lines[0].startswith("Optimizer  Adam(learning_rate=Cosine(")
    assert "1 update" in text
    assert "group 0  Adam, 2 parameters (20 numbers)" in text
    assert "*.bias  Adam, 2 parameters (6 numbers)" in text
    flat = " ".join(line.strip("│ ├└─") for line in lines)
    assert "learning_rate 0.1  by Cosine(start=0.1, steps=100), beta1 0.9" in flat
    assert "weight_decay 0.125" in flat
    native = {"numpy": "first_moment", "torch": "first_moment (exp_avg)"}[framework]
    start = next(n for n, line in enumerate(lines) if "encoder.weight  (4, 3) float32" in line)
    assert lines[start + 1].endswith(f"├── {native}  (4, 3) float32")
    assert lines.index(next(one for one in lines if "head.bias" in one)) > text.count("\n") // 2
    if framework == "torch":
        assert "step  1" in text


def test_tree_depth_and_slots(make: Make) -> None:
    view = pellucid.view(make(Adam(0.1), updates=1))
    counts = [len(str(view.tree(depth)).splitlines()) for depth in (0, 1)]
    assert counts[0] == 1
    assert "group 0" in str(view.tree(1))
    assert "head.bias" not in str(view.tree(1))
    assert "head.bias" in str(view.tree(2))
    assert "first_moment" not in str(view.tree(2))
    assert str(view.tree(2)) == str(view.tree(slots=False))
    assert str(view.tree(3)) == str(view.tree())
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="depth is"):
            view.tree(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit is 0"):
        view.tree(limit=0)


def test_tree_shows_what_all_share(make: Make) -> None:
    class Counting(Rule):
        learning_rate = hyper(0.1)
        seen = slot(3.0, scope="optimizer")

        def update(self, param: Any, grad: Any) -> Any:
            self.seen = self.seen + 1
            return param - self.learning_rate * grad

    view = pellucid.view(make(Counting(), updates=2))
    assert "└── seen  5" in str(view.tree())
    assert "seen" not in str(view.tree(slots=False))
    other = pellucid.view(make(Counting(), updates=1))
    (row,) = [row for row in pellucid.diff(view, other).rows if row.kind == "state"]
    assert (row.name, row.a, row.b) == ("seen", 5, 4)


def layers(count: int, each: int = 4) -> dict[str, tuple[int, ...]]:
    return {
        "embedding": (2,),
        **{f"encoder.layer.{n}.part{k}": (2,) for n in range(count) for k in range(each)},
        "head.weight": (2,),
    }


def test_many_parameters_are_folded(make: Make) -> None:
    view = pellucid.view(make(SGD(0.1), layers(37)))
    text = str(view.tree())
    assert "encoder.layer.*:  148 parameters (296 numbers)" in text
    assert "embedding  (2,) float32" in text
    assert "head.weight  (2,) float32" in text
    assert "part0" not in text
    finer = str(view.tree(limit=39))
    assert "encoder.layer.36.*:  4 parameters (8 numbers)" in finer
    assert "part0" not in finer
    assert "encoder.layer.36.part3  (2,)" in str(view.tree(limit=None))
    assert "encoder.layer.36.part3  (2,)" in str(view.tree(limit=150))
    narrow = str(view.tree(limit=2))
    assert "… 149 more parameters  (298 numbers)" in narrow


def test_names_without_a_prefix_are_counted(make: Make) -> None:
    text = str(pellucid.view(make(SGD(0.1), {f"p{n}": (3,) for n in range(100)})).tree(limit=5))
    assert [f"p{n} " in text for n in range(5)] == [True, True, True, True, False]
    assert "… 96 more parameters  (288 numbers)" in text


def test_names_do_not_act_on_the_terminal(make: Make) -> None:
    name = "a\x1b[31m\nb"
    view = pellucid.view(make(SGD(0.1), {name: (2,)}, groups={name: {"weight_decay": 0.5}}))
    other = pellucid.view(make(SGD(0.1), {"c": (2,), "d": (2,)}))
    for shown in (view, view.tree(), pellucid.diff(view, other)):
        assert "\x1b" not in repr(shown)
        assert "a\\x1b[31m\\nb" in repr(shown)


def test_many_groups_are_counted(make: Make) -> None:
    groups = {f"p{n}": {"weight_decay": n / 100} for n in range(30)}
    view = pellucid.view(make(SGD(0.1), {f"p{n}": (3,) for n in range(30)}, groups=groups))
    text = str(view.tree(limit=4))
    assert "p2  SGD, 1 parameter (3 numbers)" in text
    assert "… 27 more groups:  27 parameters (81 numbers)" in text
    assert "p29" in str(view.tree(limit=None))


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 200])
def test_folding_keeps_every_name_once(limit: int) -> None:
    names = [*layers(9, 3), "encoder", "encoder.", "encoder..x", "other.deep.one", ".hidden"]
    found = list(folded(names, limit))
    assert sorted(name for _, inside in found for name in inside) == sorted(names)
    assert all(name.startswith(prefix) for prefix, inside in found for name in inside)
    assert len(found) <= max(limit, len({name.partition(".")[0:2] for name in names}))
    if limit == 200:
        assert len(found) == len(names)


def test_tree_in_html(make: Make) -> None:
    view = pellucid.view(make(Adam(0.1), {"<script>alert(1)<script>&amp;": (2,)}, updates=1))
    page = view.tree()._repr_html_()
    read = assert_safe(page)
    assert "<script>alert(1)<script>&amp;" in read.texts
    text = " ".join(" ".join(read.texts).split())
    for line in str(view.tree()).splitlines():
        for word in line.strip("│ ├└─").split():
            assert word in text


# -- widths and terminals ----------------------------------------------------------------------


def shown_things(framework: str) -> list[Any]:
    long = {"encoder.a_very_long_name_of_a_parameter.with_many_parts.weight": (4,), "日本語": (2,)}
    stage = chain(skip_nonfinite(), AdamW(Cosine(0.1, 100), weight_decay=ref("learning_rate")))
    view = pellucid.view(made(framework, stage, long, groups={"日*": {"beta1": 0.5}}, updates=1))
    view.set("learning_rate", 0.1, reason="a reason that is far longer than a line can be " * 3)
    other = pellucid.view(made("numpy", SGD(0.1), SHAPES))
    many = pellucid.view(made(framework, SGD(0.1), layers(20)))
    return [view, view.tree(), many.tree(), pellucid.diff(view, other), pellucid.diff(many, other)]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider(framework: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for shown in shown_things(framework):
        lines = str(shown).splitlines()
        assert max(map(cell_len, lines)) <= width
        assert max(map(cell_len, lines)) > width // 2
        console = Console(file=io.StringIO(), width=width)
        console.print(shown)
        assert console.file.getvalue().strip()  # type: ignore[attr-defined]


def test_ascii(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    things = shown_things(framework)
    monkeypatch.setattr(sys, "stdout", Terminal())
    for shown in things:
        assert str(shown).isascii()
        assert not repr(shown).isascii()
        file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        Console(file=file, width=80).print(shown)
        file.flush()
    assert "+-- group 0" in str(things[1])
    assert "weight" in str(things[0])


def test_notebooks_do_not_swallow_the_text(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    view = pellucid.view(make(SGD(0.1)))
    expected = str(view)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(view) == expected
    assert "learning_rate" in expected


# -- HTML --------------------------------------------------------------------------------------


def test_html_has_what_the_text_has(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stage = route({"*.bias": SGD(0.25), "*": Adam(Linear(0.1, 0.0, 10))})
    view = pellucid.view(make(stage, updates=1))
    view.set("beta1", 0.75, reason="a < b & c")
    read = assert_safe(view._repr_html_())
    text = "".join("".join(read.texts).split())
    for word in str(view).replace("─", " ").split():
        assert word in text
    assert "a < b & c" in " ".join(read.texts)
    assert html.escape("a < b & c") in view._repr_html_()


def test_names_are_no_html(make: Make) -> None:
    name = "<img src=x onerror=alert(1)>\"'"
    view = pellucid.view(make(SGD(0.1), {name: (2,), "b": (2,)}, groups={name: {}, "*": {}}))
    other = pellucid.view(make(SGD(0.1), {"c": (3,), "b": (2,)}))
    for page in (
        view._repr_html_(), view.tree()._repr_html_(), pellucid.diff(view, other)._repr_html_()
    ):  # fmt: skip
        assert "<img" not in page
        assert any(name in text for text in assert_safe(page).texts)


# -- pandas ------------------------------------------------------------------------------------


def test_pandas(make: Make, framework: str) -> None:
    optimizer = make(Adam(0.1), groups={"*.bias": {"weight_decay": 0.5}}, updates=2)
    view = pellucid.view(optimizer)
    frame = view.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["path", "group", "name", "native", "value", "kind"]
    assert frame["path"].is_unique
    rows = frame.set_index("path")
    hypers = set(frame[frame["kind"] != "state"]["path"])
    assert hypers == set(view)
    assert set(frame[frame["kind"] == "state"]["path"]) == set(view.state)
    for path in hypers:
        assert rows["value"][path] == view[path]
    assert rows["kind"]["*.bias/amsgrad"] == "option"
    assert rows["kind"]["*.bias/weight_decay"] == "hyperparameter"
    moment = rows.loc["head.bias/first_moment"]
    names = {"numpy": "first_moment", "torch": "exp_avg"}
    assert tuple(moment) == ("*.bias", "first_moment", names[framework], "(2,) float32", "state")
    if framework == "torch":
        assert rows["value"]["head.bias/step"] == 2
        assert rows["native"]["group 0/beta2"] == "betas[1]"


def test_without_pandas(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        pellucid.view(make(SGD(0.1))).to_pandas()


# -- the difference ----------------------------------------------------------------------------


def rows_of(found: Difference) -> set[tuple[Any, ...]]:
    return {(row.kind, row.where, row.name, row.a, row.b, row.only) for row in found}


def test_equal_optimizers(make: Make) -> None:
    optimizer = make(Adam(Cosine(0.1, 10)), updates=1)
    twin = make(Adam(Cosine(0.1, 10)), updates=1)
    found = pellucid.diff(optimizer, pellucid.view(twin))
    assert not found
    assert len(found) == 0
    assert "no difference" in str(found)
    assert "no difference" in found._repr_html_()


def test_one_rule_in_two_frameworks() -> None:
    found = pellucid.diff(made("numpy", AdamW(0.1)), made("torch", AdamW(0.1)))
    assert not found
    found = pellucid.diff(made("numpy", AdamW(0.1)), made("torch", AdamW(0.2)))
    (row,) = found.rows
    assert (row.kind, row.name, row.native, row.a, row.b) == (
        "value", "learning_rate", "lr", 0.1, 0.2
    )  # fmt: skip
    assert str(row) == "group 0/learning_rate (lr): 0.1 | 0.2: values differ"


def test_numbers_of_other_types_agree() -> None:
    found = pellucid.diff(made("torch", SGD(torch.tensor(0.1))), made("numpy", SGD(0.1)))
    assert not found
    assert same(1, 1.0)
    assert same(torch.tensor(0.1), 0.1)
    assert same(numpy.float32(1e-8), 1e-8)
    assert same(float("nan"), float("nan"))
    assert same((0.9, 1), [0.9, torch.tensor(1)])
    assert same(numpy.ones(2), torch.ones(2))
    assert not same(0.1, 0.1000001)
    assert not same(1.0, 0.99999999)
    assert not same(0.1, numpy.float32(0.11))
    assert not same(0, None)
    assert not same("0", 0)
    assert not same((1, 2), (1, 2, 3))
    assert not same(numpy.ones(2), torch.zeros(2))
    assert not same(Broken(), Broken())
    assert same(1e300, 1e300)
    assert not same(1e300, 2e300)


def test_defaults_are_flagged_where_values_agree(make: Make) -> None:
    found = pellucid.diff(make(AdamW(0.1, weight_decay=0.1)), make(Adam(0.1, weight_decay=0.1)))
    rows = rows_of(found)
    assert ("default", "AdamW | Adam", "weight_decay", 0.01, 0.0, "") in rows
    assert ("rule", "", "rule", "AdamW", "Adam", "") in rows
    assert not [row for row in rows if row[0] == "value" and row[2] == "weight_decay"]
    assert "AdamW | Adam/weight_decay: 0.01 | 0: defaults differ" in map(str, found)
    assert len([row for row in found if row.kind == "default" and row.name == "weight_decay"]) == 1


def test_classes_of_torch_have_their_defaults(make: Make) -> None:
    params = [(name, torch.ones(shape, requires_grad=True)) for name, shape in SHAPES.items()]
    a = pellucid.torch.AdamW(params, lr=0.1, weight_decay=0.1)
    found = rows_of(pellucid.diff(a, make(Adam(0.1, weight_decay=0.1))))
    assert ("default", "AdamW | Adam", "weight_decay", 0.01, 0.0, "") in found


def of_torch(kind: Any, steps: int = 1, **keywords: Any) -> Any:
    """An optimizer of torch's own."""
    named = [(name, torch.ones(shape, requires_grad=True)) for name, shape in SHAPES.items()]
    optimizer = kind(named, **keywords)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((one**2).sum() for _, one in named)
        assert isinstance(loss, torch.Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return optimizer


def test_optimizers_of_torch() -> None:
    a = of_torch(torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    found = pellucid.diff(a, of_torch(torch.optim.Adam, lr=torch.tensor(0.1), weight_decay=0.1))
    rows = rows_of(found)
    assert ("default", "AdamW | Adam", "weight_decay", 0.01, 0, "") in rows
    assert not [
        row for row in found if row.kind == "value" and row.name != "decoupled_weight_decay"
    ]
    ours = pellucid.diff(a, made("numpy", AdamW(0.1, weight_decay=0.1), updates=1))
    assert {row.name for row in ours if row.kind != "slot"} == {
        "foreach", "capturable", "differentiable", "fused", "corrected",
    }  # fmt: skip
    assert {row.name for row in ours if row.kind == "slot"} == {"step"}
    assert {row.name for row in ours if row.only != "a"} == {"corrected"}  # torch has it not


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "LBFGS", "Adagrad", "Rprop"])
def test_torchs_own_are_shown(kind: str) -> None:
    optimizer = of_torch(getattr(torch.optim, kind), steps=2)
    view = pellucid.view(optimizer)
    assert "learning_rate (lr)" in repr(view)
    assert "encoder.weight  (4, 3) float32" in repr(view.tree())
    assert f"torch.optim.{kind.lower()}.{kind}" in repr(view.tree())
    json.loads(view.to_json())
    assert set(view.to_pandas()["path"]) >= set(view.state)
    assert "learning_rate (lr)" in assert_safe(view._repr_html_()).texts
    assert not pellucid.diff(optimizer, optimizer)
    assert view._source.recorded is None  # showing attaches nothing


def test_what_only_one_has(make: Make) -> None:
    found = rows_of(pellucid.diff(make(Adam(0.1)), make(SGD(0.1, momentum=0.9))))
    assert ("value", "group 0", "beta1", 0.9, None, "a") in found
    assert ("value", "group 0", "momentum", None, 0.9, "b") in found
    assert ("value", "group 0", "amsgrad", False, None, "a") in found
    lone = next(row for row in pellucid.diff(make(Adam(0.1)), make(SGD(0.1))) if row.only == "b")
    assert "a" not in lone.to_dict()
    assert lone.to_dict()["note"] == "only b has it"


def test_schedules(make: Make) -> None:
    a, b = make(SGD(Cosine(0.1, 10))), make(SGD(Cosine(0.1, 20)))
    (row,) = pellucid.diff(a, b)
    assert (row.kind, row.name, row.note) == ("schedule", "learning_rate", "schedules differ")
    assert (row.a, row.b) == ("Cosine(start=0.1, steps=10)", "Cosine(start=0.1, steps=20)")
    (row,) = pellucid.diff(a, make(SGD(0.1)))
    assert (row.kind, row.b) == ("schedule", "a number")
    kinds = [row.kind for row in pellucid.diff(a, make(SGD(lambda step: 0.1)))]
    assert kinds == ["schedule"]


def test_groups_by_name_members_and_position(make: Make) -> None:
    a = make(SGD(0.1), groups={"*.bias": {"weight_decay": 0.5}, "head*": {"weight_decay": 0.25}})
    b = make(SGD(0.1), groups={"head*": {"weight_decay": 0.25}, "*.bias": {"weight_decay": 0.5}})
    values = {row for row in rows_of(pellucid.diff(a, b)) if row[0] in ("value", "group")}
    # head.bias alone is in another group
    assert values == {("value", "*.bias | head*", "weight_decay", 0.5, 0.25, "")}
    b = make(SGD(0.1), groups={"*bias": {"weight_decay": 0.5}, "head*": {"weight_decay": 0.25}})
    assert not pellucid.diff(a, b)  # another name, the same members
    b = make(SGD(0.1), groups={"*.bias": {"weight_decay": 0.5}})
    rows = rows_of(pellucid.diff(a, b))
    assert ("group", "head*", "", "1 parameter", None, "a") in rows
    assert ("value", "head* | group 0", "weight_decay", 0.25, 0.0, "") in rows
    a, b = make(SGD(0.1), {"x": (2,)}), make(SGD(0.2), {"y": (3,), "z": (1,)})
    rows = rows_of(pellucid.diff(a, b))  # nothing in common
    assert ("value", "group 0", "learning_rate", 0.1, 0.2, "") in rows
    assert ("parameter", "x", "", "(2,) float32", None, "a") in rows
    assert ("parameter", "z", "", None, "(1,) float32", "b") in rows


def test_groups_of_one_name_though_nothing_else_is_common(make: Make) -> None:
    groups = {"x*": {"weight_decay": 0.5}, "z*": {"weight_decay": 0.25}}
    a = make(SGD(0.1), {"y": (2,), "x1": (2,), "z1": (2,)}, groups=groups)
    swapped = dict(reversed(groups.items()))
    b = make(SGD(0.1), {"y": (2,), "z2": (2,), "x2": (2,)}, groups=swapped)
    assert {row.kind for row in pellucid.diff(a, b)} == {"parameter"}


def torch_groups(*groups: tuple[float, str]) -> Any:
    """Unnamed groups: of each its weight decay and its parameters, a letter each."""
    dicts = [
        {
            "params": [(name, torch.ones(2, requires_grad=True)) for name in names],
            "weight_decay": decay,
        }
        for decay, names in groups
    ]
    return pellucid.torch.Optimizer(dicts, SGD(0.1))


def test_unnamed_groups_are_aligned_by_members() -> None:
    a = torch_groups((0.0, "abc"), (0.5, "de"))
    assert not pellucid.diff(a, torch_groups((0.5, "de"), (0.0, "abc")))
    # the largest share first: the first with the second, the second with the first
    a, b = torch_groups((0.0, "abcd"), (0.5, "e")), torch_groups((0.5, "de"), (0.0, "abc"))
    (row,) = pellucid.diff(a, b)
    assert (row.where, row.a, row.b) == ("group 0", 0.0, 0.5)


def test_parameters_of_other_names_are_aligned_by_position(make: Make) -> None:
    a = make(SGD(0.1), {"x": (2,), "y": (3,)})
    assert not pellucid.diff(a, make(SGD(0.1), {"z": (2,), "w": (3,)}))
    (row,) = pellucid.diff(a, make(SGD(0.1), {"z": (2,), "w": (4,)}))
    assert (row.kind, row.where, row.a, row.b) == ("shape", "y | w", "(3,)", "(4,)")


def test_state(make: Make) -> None:
    shapes = {f"layer.{n}.weight": (2,) for n in range(5)}
    a = make(Adam(0.1), shapes, updates=1)
    b = make(Adam(0.1), shapes, "float64", updates=2)
    found = {(row.kind, row.where, row.name, row.a, row.b) for row in pellucid.diff(a, b)}
    assert {
        ("updates", "", "updates", 1, 2),
        ("dtype", "layer.* (5)", "parameter", "float32", "float64"),
        ("dtype", "layer.* (5)", "first_moment", "float32", "float64"),
        ("dtype", "layer.* (5)", "second_moment", "float32", "float64"),
    } == found
    found = rows_of(pellucid.diff(a, make(Adam(0.1), shapes)))
    assert ("slot", "layer.* (5)", "second_moment", "5 parameters", None, "a") in found


def test_text_tells_near_numbers_apart(make: Make) -> None:
    (row,) = pellucid.diff(make(SGD(0.1)), make(SGD(0.1 + 1e-12)))
    assert row.texts() == ("0.1", repr(0.1 + 1e-12))


def test_difference_is_plain_data(make: Make) -> None:
    found = pellucid.diff(make(Adam(Cosine(0.1, 10)), updates=1), make(SGD(0.1)))
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert len(plain["rows"]) == len(found) == len(found.rows)
    assert plain["rows"][0] == {
        "kind": "updates", "where": "", "name": "updates", "native": "", "a": 1, "b": 0,
        "note": "counts differ",
    }  # fmt: skip
    assert bool(found) is True


def test_difference_is_shown(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make(AdamW(0.1), updates=1), make(SGD(0.25, momentum=0.5))
    found = pellucid.diff(a, b)
    for width in (40, 120):  # in between cells are folded
        monkeypatch.setenv("COLUMNS", str(width))
        text = "".join(str(found).split())
        for row in found:
            for part in (row.path, *row.texts(), row.note):
                assert "".join(part.split()) in text
    read = assert_safe(found._repr_html_())
    for row in found:
        assert {row.path, *row.texts(), row.note} <= set(read.texts)


def test_many_rows_are_counted(make: Make) -> None:
    a, b = make(SGD(0.1), layers(20)), make(SGD(0.1), {"embedding": (2,)})
    found = pellucid.diff(a, b)
    assert len(found) == 81
    assert "and 41 more of parameter: see .rows" in str(found)
    assert "and 41 more of parameter: see .rows" in found._repr_html_()


def test_difference_refuses_what_is_no_optimizer(make: Make) -> None:
    with pytest.raises(TypeError, match="view got"):
        pellucid.diff(make(SGD(0.1)), {"lr": 0.1})


def test_strange_values_are_compared() -> None:
    a, b = View(StrangeSource()), View(StrangeSource({**STRANGE, "text": "other"}))  # type: ignore[arg-type]
    differing = [row.name for row in pellucid.diff(a, b) if row.kind == "value"]
    assert differing == ["text"]


# -- cost --------------------------------------------------------------------------------------


def test_importing_and_comparing_needs_no_rich() -> None:
    code = (
        "import sys, numpy, pellucid, pellucid.numpy\n"
        "one = pellucid.numpy.Optimizer({'w': numpy.ones(2)}, pellucid.SGD(0.1), compiled=False)\n"
        "assert not pellucid.diff(one, one)\n"
        "print([m for m in ('rich', 'torch', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_reads_each_group_and_state_a_fixed_number_of_times(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = pellucid.view(make(SGD(0.1, momentum=0.9), {f"p{n}": (2,) for n in range(50)},
                              groups={"p1*": {"weight_decay": 0.5}}, updates=1))  # fmt: skip
    kind = type(view._source)
    asked: dict[str, int] = {}

    def counting(name: str, old: Callable[..., Any]) -> Callable[..., Any]:
        def asking(self: Any, *args: Any) -> Any:
            asked[name] = asked.get(name, 0) + 1
            return old(self, *args)

        return asking

    for name in ("groups", "owners", "cells", "shared_cells"):
        monkeypatch.setattr(kind, name, counting(name, getattr(kind, name)))
    str(view)
    # once for the table, once for the warnings below it
    assert asked == {"groups": 2, "owners": 2, "cells": 100, "shared_cells": 1}
    asked.clear()
    str(view.tree(limit=10))
    assert asked["groups"] == asked["owners"] == 1
    assert asked["cells"] <= 20


def best(action: Callable[[], Any], times: int = 5) -> float:
    def once() -> Iterator[float]:
        for _ in range(times):
            start = time.perf_counter()
            action()
            yield time.perf_counter() - start

    return min(once())


def test_a_thousand_parameters(make: Make) -> None:
    optimizer = make(Adam(0.1), {f"layer.{n}.weight": (2,) for n in range(1000)}, updates=1)
    other = make(Adam(0.1), {f"layer.{n}.weight": (2,) for n in range(1000)})
    assert best(lambda: pellucid.view(optimizer)) < 0.05
    view = pellucid.view(optimizer)
    assert best(lambda: str(view)) < 0.1
    assert best(lambda: str(view.tree())) < 0.1
    assert best(view._repr_html_) < 0.1
    assert best(lambda: pellucid.diff(view, other)) < 0.5


def test_a_row_is_text() -> None:
    row = Row("value", "group 0", "beta1", "betas[0]", 0.9, 0.95, "values differ")
    assert re.fullmatch(r"group 0/beta1 \(betas\[0\]\): 0\.9 \| 0\.95: values differ", str(row))
