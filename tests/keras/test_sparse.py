"""Gradients of some rows (IndexedSlices) with duplicates: all rows updated, or only the touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import pellucid
import pellucid.keras
from pellucid import FTRL, Adam, AdamW, RowwiseAdagrad, Rule, chain, hyper, ops, route, slot
from pellucid.keras import optimizer as module
from pellucid.keras.host_values import on_host
from pellucid.ops import RuleError
from pellucid.transforms import clip_by_value

pytestmark = pytest.mark.backends("tensorflow")

ROWS, COLUMNS, TOUCHED, STEPS = 12, 3, 7, 50
LAST = 8  # rows from here on are never touched
HOW = ["fused", "interpreted"]


@pytest.fixture(params=HOW)
def how(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "interpreted":
        monkeypatch.setattr(module.Optimizer, "_fused", lambda self, pairs, extras: None)
    return str(request.param)


class Batches:
    """Rows with duplicates, their gradients, and one of a dense variable, for each step."""

    def __init__(self, dtype: str = "float32", steps: int = STEPS, last: int = LAST) -> None:
        rng = np.random.default_rng(7)
        self.start = rng.normal(size=(ROWS, COLUMNS)).astype(dtype)
        self.dense_start = rng.normal(size=(4, COLUMNS)).astype(dtype)
        self.steps = []
        for _ in range(steps):
            rows = rng.integers(0, last, TOUCHED)
            rows[1] = rows[0]
            size = 10.0 ** rng.integers(-3, 2, (TOUCHED, COLUMNS))
            values = rng.normal(size=(TOUCHED, COLUMNS)) * size
            dense = rng.normal(size=self.dense_start.shape)
            self.steps.append((rows, values.astype(dtype), dense.astype(dtype)))

    def summed(self, step: int) -> Any:
        """The gradient of all rows."""
        rows, values, _ = self.steps[step]
        total = np.zeros((ROWS, COLUMNS))
        np.add.at(total, rows, values.astype("float64"))
        return total


def slices(rows: Any, values: Any, kind: str = "int32") -> Any:
    import tensorflow as tf

    return tf.IndexedSlices(
        tf.constant(values), tf.constant(rows, kind), tf.constant([ROWS, COLUMNS])
    )


def run(
    optimizer: Any, batches: Batches, kind: str = "int32", steps: int | None = None, **options: Any
) -> tuple[Any, Any]:
    """The table and the dense variable after all steps of a compiled function."""
    import tensorflow as tf

    dtype = str(batches.start.dtype)
    table = keras.Variable(batches.start, dtype=dtype, name="table")
    tower = keras.Variable(batches.dense_start, dtype=dtype, name="tower")
    optimizer.build([table, tower])

    @tf.function(reduce_retracing=True, **options)
    def step(grad: Any, dense: Any) -> None:
        optimizer.apply([grad, dense], [table, tower])

    for rows, values, dense in batches.steps[:steps]:
        step(slices(rows, values, kind), tf.constant(dense))
    return on_host(table), on_host(tower)


def lazy_adam(batches: Batches, steps: int = STEPS, rate: float = 0.01) -> Any:
    """Adam in float64 that knows a step's touched rows only."""
    table = batches.start.astype("float64")
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step in range(steps):
        grad = batches.summed(step)
        for row in set(batches.steps[step][0].tolist()):
            first[row] = 0.9 * first[row] + 0.1 * grad[row]
            second[row] = 0.999 * second[row] + 0.001 * grad[row] ** 2
            corrected = second[row] / (1 - 0.999 ** (step + 1))
            mean = first[row] / (1 - 0.9 ** (step + 1))
            table[row] -= rate * mean / (np.sqrt(corrected) + 1e-8)
    return table


def dense_run(make: Callable[..., Any], batches: Batches) -> tuple[Any, Any]:
    """The same steps with the summed gradient of all rows."""
    dtype = str(batches.start.dtype)
    table = keras.Variable(batches.start, dtype=dtype, name="table")
    tower = keras.Variable(batches.dense_start, dtype=dtype, name="tower")
    optimizer = make()
    for step, (_, _, dense) in enumerate(batches.steps):
        summed = keras.ops.convert_to_tensor(batches.summed(step).astype(dtype))
        optimizer.apply([summed, keras.ops.convert_to_tensor(dense)], [table, tower])
    return on_host(table), on_host(tower)


MAKERS: dict[str, Callable[..., Any]] = {
    "Adam": lambda **kw: pellucid.keras.Adam(0.01, **kw),
    "clipnorm": lambda **kw: pellucid.keras.Adam(0.01, clipnorm=0.5, **kw),
    "clipvalue": lambda **kw: pellucid.keras.Adam(0.01, clipvalue=0.2, **kw),
    "global_clipnorm": lambda **kw: pellucid.keras.AdamW(0.01, global_clipnorm=1.0, **kw),
    "Adagrad": lambda **kw: pellucid.keras.Adagrad(0.1, **kw),
    "SGD": lambda **kw: pellucid.keras.SGD(0.01, momentum=0.9, nesterov=True, **kw),
    "RMSprop": lambda **kw: pellucid.keras.RMSprop(0.01, centered=True, **kw),
    "Ftrl": lambda **kw: pellucid.keras.Ftrl(0.01, **kw),
    "rowwise": lambda **kw: pellucid.keras.Optimizer(RowwiseAdagrad(0.1), **kw),
    "skipping": lambda **kw: pellucid.keras.Optimizer(
        chain(pellucid.transforms.skip_nonfinite(), Adam(0.01)), **kw
    ),
}


# -- all rows ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_dense_is_the_update_by_the_summed_gradient(name: str, how: str) -> None:
    batches = Batches("float64", 15)
    found = run(MAKERS[name](), batches)
    wanted = dense_run(MAKERS[name], batches)
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dense_equals_the_legacy_optimizer() -> None:
    """tf_keras's legacy Adam sums duplicates, and moves all rows."""
    import tensorflow as tf
    import tf_keras

    batches = Batches()
    found, _ = run(pellucid.keras.Adam(0.01), batches)
    table, legacy = tf.Variable(batches.start), tf_keras.optimizers.legacy.Adam(0.01)
    for rows, values, _ in batches.steps:
        legacy.apply_gradients([(slices(rows, values), table)])
    np.testing.assert_allclose(found, table.numpy(), rtol=2e-5, atol=2e-6)
    ours, _ = run(pellucid.keras.Adam(0.01, beta_2=0.99), batches)
    assert np.abs(ours - table.numpy()).max() > 1e-3


def test_keras_own_adam_differs() -> None:
    """What is mended: Keras squares the gradients of duplicate rows one by one."""
    batches = Batches()
    theirs, _ = run(keras.optimizers.Adam(0.01), batches)
    ours, _ = run(pellucid.keras.Adam(0.01), batches)
    assert np.abs(theirs[:LAST] - ours[:LAST]).max() > 1e-3


# -- the touched rows ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_lazy_moves_the_touched_rows_alone(dtype: str, kind: str, how: str) -> None:
    batches = Batches(dtype)
    optimizer = pellucid.keras.Optimizer(Adam(0.01), sparse="lazy")
    table, _ = run(optimizer, batches, kind)
    close = (1e-11, 1e-13) if dtype == "float64" else (1e-4, 1e-5)
    np.testing.assert_allclose(table, lazy_adam(batches), rtol=close[0], atol=close[1])
    assert table[LAST:].tobytes() == batches.start[LAST:].tobytes()
    for state in optimizer.core.parameters[0].slots.values():
        assert not on_host(state)[LAST:].any()
        assert on_host(state)[:LAST].all()


@pytest.mark.parametrize("name", MAKERS)
def test_lazy_equals_dense_where_each_row_is_touched(name: str, how: str) -> None:
    """Also the global norm: it counts each row's summed gradient once."""
    batches = Batches("float64", 8)
    everywhere = np.concatenate([np.arange(ROWS), np.arange(5)])
    rng = np.random.default_rng(3)
    batches.steps = [
        (everywhere, rng.normal(size=(len(everywhere), COLUMNS)), dense)
        for _, _, dense in batches.steps
    ]
    lazy = run(MAKERS[name](sparse="lazy"), batches)
    dense = run(MAKERS[name](), batches)
    for got, want in zip(lazy, dense, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13)


def test_the_global_norm_is_the_dense_one(how: str) -> None:
    """The tower's update, which reads it, is the same although rows are left out."""
    batches = Batches("float64")
    _, lazy = run(MAKERS["global_clipnorm"](sparse="lazy"), batches)
    _, dense = run(MAKERS["global_clipnorm"](), batches)
    np.testing.assert_allclose(lazy, dense, rtol=1e-11)
    _, loose = run(pellucid.keras.AdamW(0.01, sparse="lazy"), batches)
    assert np.abs(loose - dense).max() > 1e-3


def test_slots_that_begin_at_a_hyperparameter_changed_before_the_first_step(how: str) -> None:
    optimizer = pellucid.keras.Adagrad(0.1, sparse="lazy")
    batches = Batches("float64", 3)
    table = keras.Variable(batches.start, dtype="float64", name="table")
    optimizer.build([table])
    optimizer.initial_accumulator_value = 2.0
    rows, values, _ = batches.steps[0]
    optimizer.apply([slices(rows, values)], [table])
    (state,) = optimizer.core.parameters[0].slots.values()
    assert (on_host(state)[LAST:] == 2.0).all()
    grad = batches.summed(0)
    np.testing.assert_allclose(on_host(state), 2.0 + grad**2, rtol=1e-12)
    moved = grad / np.sqrt(2.0 + grad**2 + 1e-7)
    np.testing.assert_allclose(on_host(table), batches.start - 0.1 * moved, rtol=1e-10)


def test_lazy_reads_no_whole_table() -> None:
    """No tensor of the compiled step has as many rows as the table; the dense tower is updated by
    the same op."""
    import tensorflow as tf

    batches = Batches()
    table = keras.Variable(batches.start, name="table")
    tower = keras.Variable(batches.dense_start, name="tower")
    rows, values, dense = batches.steps[0]

    def operations(how: str) -> list[Any]:
        optimizer = pellucid.keras.AdamW(0.01, global_clipnorm=1.0, sparse=how)
        optimizer.build([table, tower])
        made = tf.function(lambda grad, of: optimizer.apply([grad, of], [table, tower]))
        graph = made.get_concrete_function(slices(rows, values), tf.constant(dense)).graph
        return list(graph.get_operations())

    def as_long(listed: list[Any]) -> list[Any]:
        outputs = [one for op in listed for one in op.outputs]
        return [one for one in outputs if one.shape.rank and one.shape[0] == ROWS]

    lazy = operations("lazy")
    assert not as_long(lazy)
    assert sum("Pellucid" in op.type for op in lazy) == 1
    assert as_long(operations("dense"))


def test_eager_and_xla_agree_with_the_graph() -> None:
    import tensorflow as tf

    batches = Batches(steps=10)
    make = lambda: pellucid.keras.Adam(0.01, global_clipnorm=1.0, sparse="lazy")  # noqa: E731
    graph = run(make(), batches)
    xla = run(make(), batches, jit_compile=True)
    tf.config.run_functions_eagerly(True)
    try:
        eager = run(make(), batches)
    finally:
        tf.config.run_functions_eagerly(False)
    for one, other, third in zip(graph, xla, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)
        assert one.tobytes() == third.tobytes()
    assert xla[0][LAST:].tobytes() == batches.start[LAST:].tobytes()


def test_a_veto_leaves_all_rows(how: str) -> None:
    batches = Batches(steps=4)
    batches.steps[2][1][3, 1] = np.nan
    optimizer = MAKERS["skipping"](sparse="lazy")
    found, _ = run(optimizer, batches)
    assert int(optimizer.iterations) == 3
    del batches.steps[2]
    wanted, _ = run(MAKERS["skipping"](sparse="lazy"), batches)
    assert found.tobytes() == wanted.tobytes()


def test_one_parameter_with_and_without_rows(how: str) -> None:
    """A dense gradient updates all rows, lazily or not."""
    optimizer = pellucid.keras.SGD(1.0, sparse="lazy")
    table = keras.Variable(np.zeros((ROWS, COLUMNS), "float32"), name="table")
    optimizer.apply([slices([2, 2], np.ones((2, COLUMNS), "float32"))], [table])
    assert on_host(table).sum() == -2 * COLUMNS
    optimizer.apply([keras.ops.ones((ROWS, COLUMNS))], [table])
    assert (on_host(table)[[0, 2]] == [[-1] * COLUMNS, [-3] * COLUMNS]).all()


def test_rows_of_a_vector_and_of_a_cube(how: str) -> None:
    import tensorflow as tf

    for shape in [(5,), (5, 2, 3)]:
        table = keras.Variable(np.zeros(shape, "float32"), name="table")
        optimizer = pellucid.keras.SGD(1.0, momentum=0.5, sparse="lazy")
        values = tf.ones((3, *shape[1:]))
        optimizer.apply([tf.IndexedSlices(values, tf.constant([4, 1, 4]))], [table])
        found = on_host(table).reshape(5, -1)
        assert found[:, 0].tolist() == [0, -1, 0, 0, -2]
        assert (found == found[:, :1]).all()


@pytest.mark.parametrize("sparse", ["dense", "lazy"])
def test_no_rows_at_all(sparse: str, how: str) -> None:
    import tensorflow as tf

    optimizer = pellucid.keras.Adam(0.1, sparse=sparse)
    table = keras.Variable(np.ones((ROWS, COLUMNS), "float32"), name="table")
    none = slices(np.zeros((0,), "int32"), np.zeros((0, COLUMNS), "float32"))
    step = tf.function(lambda grad: optimizer.apply([grad], [table]))
    optimizer.build([table])
    step(none)
    assert (on_host(table) == 1.0).all()
    assert int(optimizer.iterations) == 1


@pytest.mark.parametrize("sparse", ["dense", "lazy"])
@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_out_of_range_raises_and_writes_nothing(row: int, sparse: str, how: str) -> None:
    import tensorflow as tf

    optimizer = pellucid.keras.Adam(0.1, sparse=sparse)
    table = keras.Variable(np.ones((ROWS, COLUMNS), "float32"), name="table")
    tower = keras.Variable(np.ones((4,), "float32"), name="tower")
    optimizer.build([table, tower])
    apply = lambda grad: optimizer.apply([grad, tf.ones(4)], [table, tower])  # noqa: E731
    wrong = slices([3, row], np.ones((2, COLUMNS), "float32"))
    for call, error in ((apply, ValueError), (tf.function(apply), tf.errors.InvalidArgumentError)):
        with pytest.raises(error, match=r"table.* has a row out of range: allowed is 0 to 11"):
            call(wrong)
    assert (on_host(table) == 1.0).all()
    assert (on_host(tower) == 1.0).all()
    for one in optimizer.core.parameters:
        assert not any(on_host(state).any() for state in one.slots.values())


# -- what cannot be lazy -------------------------------------------------------------------


class ByColumn(Rule):
    """Scale each column by its own second moment."""

    learning_rate = hyper(0.1)
    second_moment = slot(shape="column")

    def update(self, param: Any, grad: Any) -> Any:
        self.second_moment = self.second_moment + ops.sum(grad * grad, over="column")
        return param - self.learning_rate * grad / (ops.sqrt(self.second_moment) + 1e-8)


class Trusting(Rule):
    """Scale the step by the norm of the parameter."""

    learning_rate = hyper(0.1)

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * ops.norm(param) * grad


class Averaging(Rule):
    """Scale the step by the root of the mean square of the gradient."""

    learning_rate = hyper(0.1)

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * grad * ops.sqrt(ops.mean(grad * grad))


class Remembering(Rule):
    """Descend towards the first gradient."""

    learning_rate = hyper(0.1)
    first = slot(init="grad")

    def update(self, param: Any, grad: Any) -> Any:
        self.first = self.first * 0.5
        return param - self.learning_rate * self.first


IMPOSSIBLE: dict[str, tuple[Callable[[], Any], str]] = {
    "column": (ByColumn, "a slot of one number for each column"),
    "tensor": (Trusting, "reduces over the tensor"),
    "size": (Averaging, "asks how many elements there are"),
    "first": (Remembering, "forms the first value of 'first'"),
    "noise": (lambda: chain(pellucid.transforms.add_noise(0.1), Adam()), "draws random numbers"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_lazy_says_so(name: str) -> None:
    make, why = IMPOSSIBLE[name]
    optimizer = pellucid.keras.Optimizer(make(), sparse="lazy")
    table = keras.Variable(np.ones((ROWS, COLUMNS), "float32"), name="table")
    grad = slices([1, 1], np.ones((2, COLUMNS), "float32"))
    with pytest.raises(RuleError, match=rf"sparse='lazy' .*'table'.*({why}).*sparse='dense'"):
        optimizer.apply([grad], [table])
    assert (on_host(table) == 1.0).all()
    assert int(optimizer.iterations) == 0
    with pytest.raises(AttributeError, match="make another optimizer"):
        optimizer.sparse = "dense"
    optimizer = pellucid.keras.Optimizer(make(), sparse="dense")
    optimizer.apply([grad], [table])
    assert int(optimizer.iterations) == 1


def test_a_clipped_value_may_be_reduced(how: str) -> None:
    """Clipping leaves a zero a zero, so the norm behind it needs no other rows."""
    make = lambda **kw: pellucid.keras.Optimizer(  # noqa: E731
        chain(clip_by_value(0.3), pellucid.transforms.clip_by_global_norm(0.5), AdamW(0.01)), **kw
    )
    batches = Batches("float64", 10)
    _, lazy = run(make(sparse="lazy"), batches)
    _, dense = run(make(), batches)
    np.testing.assert_allclose(lazy, dense, rtol=1e-11)


def test_lazy_and_accumulated_gradients_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="which were touched is lost; use sparse='dense'"):
        pellucid.keras.Adam(sparse="lazy", gradient_accumulation_steps=2)
    optimizer = pellucid.keras.Adam(gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="use sparse='dense'"):
        optimizer.sparse = "lazy"
    with pytest.raises(ValueError, match="allowed is 'dense' or 'lazy'"):
        optimizer.sparse = "both"
    assert optimizer.sparse == "dense"


def test_a_gradient_of_other_rows_is_refused() -> None:
    import tensorflow as tf

    table = keras.Variable(np.ones((ROWS, COLUMNS), "float32"), name="table")
    number = keras.Variable(1.0, name="number")
    optimizer = pellucid.keras.SGD(1.0)
    optimizer.build([table, number])
    with pytest.raises(ValueError, match=r"'table' has rows of shape \(2,\).*allowed are.*\(3,\)"):
        optimizer.apply([tf.IndexedSlices(tf.ones((1, 2)), tf.constant([0]))], [table])
    with pytest.raises(ValueError, match="'number' has rows, and the variable has none"):
        optimizer.apply([tf.IndexedSlices(tf.ones((1,)), tf.constant([0]))], [number])


# -- beside Keras's own --------------------------------------------------------------------


@pytest.mark.parametrize("sparse", ["dense", "lazy"])
def test_transformers_see_each_row_once(sparse: str) -> None:
    import tensorflow as tf

    seen: list[Any] = []

    def clipped(pairs: list[Any]) -> list[Any]:
        seen.extend(grad for grad, _ in pairs)
        return [(tf.clip_by_value(grad, -1.0, 1.0), variable) for grad, variable in pairs]

    optimizer = pellucid.keras.SGD(1.0, sparse=sparse, gradient_transformers=[clipped])
    table = keras.Variable(np.zeros((ROWS, COLUMNS), "float32"), name="table")
    optimizer.apply([slices([2, 5, 2], np.full((3, COLUMNS), 0.75, "float32"))], [table])
    assert isinstance(seen[0], tf.IndexedSlices) == (sparse == "lazy")
    assert on_host(table)[[1, 2, 5], 0].tolist() == [0.0, -1.0, -0.75]


def test_a_transformer_may_bring_duplicates_back(how: str) -> None:
    import tensorflow as tf

    def doubled(pairs: list[Any]) -> list[Any]:
        return [
            (tf.IndexedSlices(tf.tile(g.values, [2, 1]), tf.tile(g.indices, [2])), variable)
            for g, variable in pairs
        ]

    optimizer = pellucid.keras.SGD(1.0, sparse="lazy", gradient_transformers=[doubled])
    table = keras.Variable(np.zeros((ROWS, COLUMNS), "float32"), name="table")
    optimizer.apply([slices([2, 5], np.ones((2, COLUMNS), "float32"))], [table])
    assert on_host(table)[[1, 2, 5], 0].tolist() == [0.0, -2.0, -2.0]


@pytest.mark.parametrize("sparse", ["dense", "lazy"])
def test_loss_scale_factor(sparse: str) -> None:
    batches = Batches(steps=5)
    scaled = Batches(steps=5)
    scaled.steps = [(rows, 8.0 * values, 8.0 * dense) for rows, values, dense in batches.steps]
    found = run(pellucid.keras.Adam(0.1, sparse=sparse, loss_scale_factor=8.0), scaled)
    wanted = run(pellucid.keras.Adam(0.1, sparse=sparse), batches)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("sparse", ["dense", "lazy"])
def test_a_loss_scale_optimizer(sparse: str) -> None:
    batches = Batches(steps=5)
    scaled = Batches(steps=5)
    scaled.steps = [(rows, 8.0 * values, 8.0 * dense) for rows, values, dense in batches.steps]
    inner = pellucid.keras.Adam(0.1, sparse=sparse)
    outer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    found = run(outer, scaled)
    wanted = run(pellucid.keras.Adam(0.1, sparse=sparse), batches)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_accumulated_gradients() -> None:
    """Keras's accumulators are arrays of all rows."""
    batches = Batches("float64", 6)
    found, _ = run(pellucid.keras.Adam(0.1, gradient_accumulation_steps=2), batches)
    table = keras.Variable(batches.start, dtype="float64", name="table")
    optimizer = pellucid.keras.Adam(0.1)
    for step in (0, 2, 4):
        mean = (batches.summed(step) + batches.summed(step + 1)) / 2
        optimizer.apply([keras.ops.convert_to_tensor(mean)], [table])
    np.testing.assert_allclose(found, on_host(table), rtol=1e-11)


def model_of(seed: int = 3) -> Any:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((5,), dtype="int32"),
            keras.layers.Embedding(40, 4, name="table"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )


def data_of() -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 30, (32, 5)).astype("int32"), rng.normal(size=(32, 1))


@pytest.mark.parametrize("mode", ["graph", "eager", "xla"])
@pytest.mark.parametrize("rule", [RowwiseAdagrad(0.1), FTRL(0.1)], ids=["row", "ftrl"])
def test_fit_routes_an_embedding_beside_a_tower(rule: Any, mode: str) -> None:
    model, (x, y) = model_of(), data_of()
    before = on_host(model.layers[0].embeddings)
    optimizer = pellucid.keras.Optimizer(
        route({"*table/*": rule, "*": AdamW(0.01)}), sparse="lazy", global_clipnorm=5.0
    )
    model.compile(
        optimizer, loss="mse", run_eagerly=mode == "eager", jit_compile=mode == "xla"
    )
    losses = model.fit(x, y, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    after = on_host(model.layers[0].embeddings)
    assert after[30:].tobytes() == before[30:].tobytes()
    assert (after[:30] != before[:30]).all(axis=1).sum() > 25


def test_fit_dense_equals_a_model_that_has_dense_gradients() -> None:
    """An embedding written as a product with one-hot rows has a dense gradient."""
    x, y = data_of()
    model = model_of()
    table = on_host(model.layers[0].embeddings)
    model.compile(pellucid.keras.Adam(0.01, clipnorm=0.1), loss="mse")
    other = keras.Sequential(
        [
            keras.layers.Input((5, 40)),
            keras.layers.Dense(4, use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    other.set_weights([table, *model.get_weights()[1:]])
    other.compile(pellucid.keras.Adam(0.01, clipnorm=0.1), loss="mse")
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    other.fit(np.eye(40, dtype="float32")[x], y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for one, another in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, another, rtol=1e-3, atol=1e-5)
