"""Host functions that write to TensorFlow's variables in place: order, sharing, locks, failure."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest
import tensorflow as tf

from pellucid.keras import tensorflow_op
from pellucid.keras.tensorflow_op import available, run_in_place, suits

pytestmark = pytest.mark.backends("tensorflow")

SECONDS = 60  # after which a lock that is never free is a failure


def array_at(address: int, shape: Any, dtype: str = "float32") -> Any:
    """The memory at an address, as a NumPy array that writes to it."""
    dtype = numpy.dtype(dtype)
    count = int(numpy.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_char * count).from_address(int(address))
    return numpy.frombuffer(memory, dtype).reshape(shape)


class Adder:
    """Adds to each variable what its input holds, or 1; keeps where they were."""

    def __init__(self, shape: Any = (4,), dtype: str = "float32") -> None:
        self.shape, self.dtype = shape, dtype
        self.seen: list[list[int]] = []

    def __call__(self, addresses: Any, inputs: Any, outputs: list[Any]) -> None:
        self.seen.append(addresses.tolist())
        for k, address in enumerate(addresses):
            more = array_at(inputs[k], self.shape, self.dtype) if len(inputs) else 1
            array_at(address, self.shape, self.dtype)[...] += more

    def update(self, addresses: Any, inputs: Any, outputs: list[Any]) -> None:
        self(addresses, inputs, outputs)


@pytest.fixture(params=["eager", "graph"])
def mode(request: pytest.FixtureRequest) -> Any:
    """Runs a function as it is, or as a tf.function."""
    return (lambda function: function) if request.param == "eager" else tf.function


def zeros(count: int = 1, shape: Any = (4,), dtype: str = "float32") -> list[Any]:
    return [tf.Variable(tf.zeros(shape, dtype)) for _ in range(count)]


def values(variables: Any) -> list[Any]:
    return [one.numpy().tolist() for one in variables]


def test_it_works_here() -> None:
    from tensorflow.python.framework import op_def_registry

    assert available() == ""
    assert suits(zeros(3))
    name = tensorflow_op._op().name
    assert op_def_registry.get(name).is_stateful  # or TensorFlow might merge or prune it


# -- in place ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_variables_change_in_their_own_memory(mode: Any, dtype: str) -> None:
    variables, add = zeros(3, dtype=dtype), Adder(dtype=dtype)

    @mode
    def step(gradients: Any) -> None:
        run_in_place(add, variables, gradients, [], "step")

    for _ in range(3):
        step([tf.fill((4,), tf.constant(k, dtype)) for k in (1, 2, 3)])
    assert values(variables) == [[3.0] * 4, [6.0] * 4, [9.0] * 4]
    assert add.seen[0] == add.seen[1] == add.seen[2]
    assert len({*add.seen[0]}) == 3


def test_memory_stays_where_it_is_while_a_model_trains() -> None:
    variables = [tf.Variable(tf.ones((4, 4))) for _ in range(3)]
    add = Adder((4, 4))

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            y = x
            for one in variables:
                y = tf.tanh(y @ one)
            loss = tf.reduce_sum(y)
        run_in_place(add, variables, tape.gradient(loss, variables), [], "step")
        return loss

    losses = [float(step(tf.ones((2, 4)))) for _ in range(5)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]
    assert all(one == add.seen[0] for one in add.seen)


def test_results_have_their_type_and_shape(mode: Any) -> None:
    (variable,) = zeros()

    def fill(addresses: Any, inputs: Any, outputs: list[Any]) -> None:
        assert [one.dtype.name for one in outputs] == ["int64", "float32", "bool"]
        assert not any(one.any() for one in outputs)
        outputs[0][...] = 7
        outputs[1][...] = array_at(inputs[0], (2, 3))
        outputs[2][...] = True

    given = tf.reshape(tf.range(6, dtype=tf.float32), (2, 3))
    wanted = [("int64", ()), (tf.float32, (2, 3)), (numpy.bool_, (1,))]

    @mode
    def step() -> Any:
        results = run_in_place(fill, [variable], [given], wanted, "step")
        assert [(one.dtype.name, tuple(one.shape)) for one in results] == [
            ("int64", ()), ("float32", (2, 3)), ("bool", (1,))
        ]
        return results

    number, matrix, truth = step()
    assert number.numpy() == 7
    assert numpy.array_equal(matrix, given)
    assert truth.numpy().tolist() == [True]


def test_no_variable_one_value_and_no_value(mode: Any) -> None:
    scalar, empty = tf.Variable(1.5), tf.Variable(tf.zeros((0, 3)))
    seen: list[int] = []

    def count(addresses: Any, inputs: Any, outputs: Any) -> None:
        seen.append(len(addresses))

    def keep(addresses: Any, inputs: Any, outputs: Any) -> None:
        array_at(addresses[1], ())[...] += 1
        seen.append(len(addresses))

    @mode
    def step() -> None:
        run_in_place(count, [], [], [], "none")
        run_in_place(keep, [empty, scalar], [tf.zeros((0,))], [], "few")

    step()
    step()
    assert sorted(seen) == [0, 0, 2, 2]
    assert scalar.numpy() == 3.5


def test_a_thousand_variables() -> None:
    variables, add = zeros(1000), Adder()

    @tf.function
    def step(gradient: Any) -> None:
        run_in_place(add, variables, [gradient * k for k in range(1000)], [], "step")

    step(tf.ones(4))
    step(tf.ones(4))
    assert [one.numpy()[0] for one in variables] == [2.0 * k for k in range(1000)]


# -- who holds a value keeps it ----------------------------------------------------------------

READERS = {
    "read_value": lambda one: one.read_value(),
    "value": lambda one: one.value(),
    "identity": lambda one: tf.identity(one),
    "convert": lambda one: tf.convert_to_tensor(one),
    "reshaped": lambda one: tf.reshape(one, (2, 2)),
    "sliced": lambda one: one[:2],
}


@pytest.mark.parametrize("name", READERS)
def test_what_was_read_before_keeps_its_value(mode: Any, name: str) -> None:
    variables, add = zeros(2), Adder()

    @mode
    def step() -> Any:
        before = READERS[name](variables[1])
        run_in_place(add, variables, [], [], "step")
        return before, READERS[name](variables[1])

    for k in range(3):
        before, after = step()
        assert set(numpy.ravel(before)) == {float(k)}
        assert set(numpy.ravel(after)) == {float(k + 1)}
        held = before, after
        step_add = float(k + 1)
        assert values(variables) == [[step_add] * 4] * 2
    assert set(numpy.ravel(held[0])) == {2.0}


def test_what_is_held_outside_keeps_its_value(mode: Any) -> None:
    variables, add = zeros(2), Adder()

    @mode
    def step() -> None:
        run_in_place(add, variables, [], [], "step")

    step()
    kept = variables[0].read_value()
    view = variables[1].read_value()._numpy()  # NumPy's own view of TensorFlow's memory
    step()
    step()
    assert kept.numpy().tolist() == view.tolist() == [1.0] * 4
    assert values(variables) == [[3.0] * 4] * 2
    first, second, third = add.seen
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert second == third


def test_an_input_that_is_the_variable_itself_keeps_its_value(mode: Any) -> None:
    variable = tf.Variable([1.0, 2.0, 3.0, 4.0])
    add = Adder()

    @mode
    def step() -> None:
        run_in_place(add, [variable], [variable], [], "double")

    step()
    step()
    assert variable.numpy().tolist() == [4.0, 8.0, 12.0, 16.0]


def test_a_sparse_update_before_and_after() -> None:
    variable, add = tf.Variable(tf.zeros((4,))), Adder()

    @tf.function
    def step() -> Any:
        variable.scatter_nd_add([[1]], [10.0])
        gathered = tf.gather(variable, [1])
        run_in_place(add, [variable], [], [], "step")
        variable.scatter_nd_add([[2]], [100.0])
        return gathered, tf.gather(variable, [1, 2])

    before, after = step()
    assert before.numpy().tolist() == [10.0]
    assert after.numpy().tolist() == [11.0, 101.0]
    step()
    assert variable.numpy().tolist() == [2.0, 22.0, 202.0, 2.0]


# -- order -------------------------------------------------------------------------------------


def test_writes_and_updates_are_in_the_order_of_the_program() -> None:
    (variable,) = zeros()
    add = Adder()

    @tf.function
    def step() -> Any:
        seen = [variable.read_value()]
        variable.assign_add(tf.fill((4,), 10.0))
        run_in_place(add, [variable], [], [], "first")
        seen.append(variable.read_value())
        variable.assign(variable * 2.0)
        run_in_place(add, [variable], [], [], "second")
        run_in_place(add, [variable], [], [], "third")
        seen.append(variable.read_value())
        return seen

    assert [float(one[0]) for one in step()] == [0.0, 11.0, 24.0]
    assert [float(one[0]) for one in step()] == [24.0, 35.0, 72.0]


@pytest.mark.parametrize("parallel", [1, 10])
def test_in_a_while_loop(parallel: int) -> None:
    (variable,) = zeros()
    add = Adder()

    @tf.function
    def steps(count: Any) -> Any:
        total = tf.zeros(4)
        for _ in tf.range(count):
            tf.autograph.experimental.set_loop_options(parallel_iterations=parallel)
            run_in_place(add, [variable], [], [], "step")
            total += variable
        return total

    assert steps(tf.constant(5)).numpy().tolist() == [15.0] * 4
    assert variable.numpy().tolist() == [5.0] * 4


def test_in_a_branch_and_in_functions_within_functions() -> None:
    (variable,) = zeros()
    add = Adder()

    @tf.function
    def inner() -> None:
        run_in_place(add, [variable], [], [], "inner")

    @tf.function
    def outer(wanted: Any) -> Any:
        inner()
        if wanted:
            inner()
            run_in_place(add, [variable], [], [], "branch")
        return variable.read_value()

    assert outer(tf.constant(False)).numpy()[0] == 1.0
    assert outer(tf.constant(True)).numpy()[0] == 4.0
    inner()
    assert variable.numpy()[0] == 5.0


def test_it_runs_though_nothing_uses_its_results() -> None:
    (variable,) = zeros()
    add = Adder()
    step = tf.function(
        lambda x: (run_in_place(add, [variable], [], [("int32", ())], "step"), x)[1]
    )
    assert step(tf.constant(3)).numpy() == 3
    assert variable.numpy()[0] == 1.0


def test_under_a_gradient_tape(mode: Any) -> None:
    variables, add = zeros(), Adder()

    @mode
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(variables[0] ** 2)
            run_in_place(add, variables, [], [], "step")
            loss += tf.reduce_sum(variables[0])
        return tape.gradient(loss, variables[0])

    assert step().numpy().tolist() == [1.0] * 4
    assert step().numpy().tolist() == [3.0] * 4


# -- failure -----------------------------------------------------------------------------------


def test_an_exception_fails_the_op_with_its_text_and_frees_the_variables(mode: Any) -> None:
    variables = zeros(2)
    wrong = [True]

    def refuse(addresses: Any, inputs: Any, outputs: Any) -> None:
        if wrong[0]:
            raise ValueError("learning_rate is nan: give a number")
        Adder()(addresses, inputs, outputs)

    @mode
    def step() -> None:
        run_in_place(refuse, variables, [], [], "refused")

    with pytest.raises(tf.errors.InvalidArgumentError, match="learning_rate is nan: give a number"):
        step()
    assert values(variables) == [[0.0] * 4] * 2
    variables[0].assign_add(tf.ones(4))  # would wait for ever, were it still locked
    wrong[0] = False
    step()
    assert values(variables) == [[2.0] * 4, [1.0] * 4]


def test_ctrl_c_in_the_function_cancels_the_op(mode: Any) -> None:
    variables = zeros()

    def interrupted(addresses: Any, inputs: Any, outputs: Any) -> None:
        raise KeyboardInterrupt("by hand")

    @mode
    def step() -> None:
        run_in_place(interrupted, variables, [], [], "interrupted")

    with pytest.raises(tf.errors.CancelledError, match="by hand"):
        step()
    variables[0].assign_add(tf.ones(4))


def test_an_owner_that_is_gone_is_an_error() -> None:
    (variable,) = zeros()
    owners = [Adder()]

    @tf.function
    def step() -> None:
        run_in_place(owners[0].update, [variable], [], [], "step")

    step()
    gc.collect()
    step()
    assert variable.numpy()[0] == 2.0
    owners.clear()
    gc.collect()
    with pytest.raises(tf.errors.InvalidArgumentError, match="is gone"):
        step()
    assert variable.numpy()[0] == 2.0


def test_of_several_owners_each_serves_its_own_function() -> None:
    variables = zeros(3)
    owners = [Adder() for _ in variables]

    def make(owner: Any, variable: Any) -> Any:
        return tf.function(lambda: run_in_place(owner.update, [variable], [], [], "step"))

    steps = [make(*one) for one in zip(owners, variables, strict=True)]
    for k, step in enumerate(steps):
        for _ in range(k + 1):
            step()
    assert [len(one.seen) for one in owners] == [1, 2, 3]
    assert [one.numpy()[0] for one in variables] == [1.0, 2.0, 3.0]


def test_what_a_dead_owner_left_is_freed() -> None:
    (variable,) = zeros()
    op: Any = tensorflow_op._made[0]
    before = len(op.runs)
    owner = Adder()
    step = tf.function(lambda weak: run_in_place(weak.update, [variable], [], [], "step"))
    step.get_concrete_function(owner)
    assert len(op.runs) == before + 1
    del step, owner
    gc.collect()
    assert len(op.runs) == before


def test_a_value_of_another_size_or_none_is_refused(mode: Any) -> None:
    (variable,) = zeros()
    add = Adder()
    given = tf.zeros((9,))

    @mode
    def step() -> None:
        run_in_place(add, [variable], [], [], "step")

    step()
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=given)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"has 36 bytes where .* for 16"):
        step()
    tf.raw_ops.DestroyResourceOp(resource=variable.handle, ignore_lookup_error=True)
    assert len(add.seen) == 1


def test_a_variable_without_a_value_is_refused() -> None:
    handle = tf.raw_ops.VarHandleOp(
        dtype=tf.float32, shape=(4,), shared_name="cd2c89b7-88b7-44c8-ad83-06c2a9158347"
    )
    (variable,) = zeros()
    variable._handle = handle
    with pytest.raises(tf.errors.InvalidArgumentError, match="initialize it before"):
        run_in_place(Adder(), [variable], [], [], "step")


def test_a_variable_known_by_name_alone_is_refused() -> None:
    (variable,) = zeros()
    variable._handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=(4,), shared_name="mine")
    with pytest.raises(tf.errors.InvalidArgumentError, match="held by name"):
        run_in_place(Adder(), [variable], [], [], "step")


def test_wrong_arguments_are_named() -> None:
    variables = zeros(2)
    with pytest.raises(ValueError, match="given twice"):
        run_in_place(Adder(), [*variables, variables[0]], [], [], "step")
    with pytest.raises(TypeError, match=r"inputs\[1\] is of type string"):
        run_in_place(Adder(), variables, [tf.ones(4), tf.constant("a")], [], "step")
    twin = zeros()[0]
    twin._handle = tf.identity(variables[0].handle)
    with pytest.raises(tf.errors.InvalidArgumentError, match="given twice"):
        run_in_place(Adder(), [variables[0], twin], [], [], "step")


# -- where it does not serve -------------------------------------------------------------------


def test_within_xla_it_does_not_suit_and_says_so() -> None:
    variables = zeros()
    seen = []

    @tf.function(jit_compile=True)
    def step(run: bool) -> None:
        seen.append(suits(variables))
        tf.function(lambda: seen.append(suits(variables)))()
        if run:
            run_in_place(Adder(), variables, [], [], "step")

    step(False)
    assert seen == [False, False]
    with pytest.raises(RuntimeError, match="jit_compile"):
        step(True)


def test_xla_over_a_function_that_was_traced_without_it_names_the_op() -> None:
    variables = zeros()
    add = Adder()
    inner = tf.function(lambda: run_in_place(add, variables, [], [], "step"))
    inner()
    outer = tf.function(inner, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"XLA.*PellucidUpdateOnHost"):
        outer()
    assert len(add.seen) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: tf.Variable(tf.zeros(4, tf.float16)),
        lambda: tf.Variable(tf.zeros(4, tf.int32)),
        lambda: tf.Variable(tf.zeros(4), shape=(None,)),
        lambda: tf.zeros(4),
        lambda: keras.Variable(numpy.zeros(4)),
        lambda: tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0),
        lambda: None,
    ],
)
def test_what_is_no_dense_variable_of_floats_does_not_suit(make: Any) -> None:
    assert suits(zeros(2))
    assert not suits([*zeros(2), make()])


def test_a_graph_of_tensorflow_1_does_not_suit() -> None:
    outside = zeros()
    with tf.Graph().as_default():
        assert not suits([tf.compat.v1.get_variable("one", (4,), use_resource=True)])
        assert not suits(outside)


def run_alone(text: str) -> str:
    """What a program prints in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAD) + textwrap.dedent(text)],
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


HEAD = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(cpu, two)
    import importlib
    from test_tensorflow_op import *
    def grown(variables, times=3):
        add = Adder()
        step = tf.function(lambda: run_in_place(add, variables, [], [], "step"))
        for _ in range(times):
            step()
        return add, step
"""


def test_strategies_and_other_devices_do_not_suit() -> None:
    printed = run_alone("""
        inside = []
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            mirrored = tf.Variable(tf.zeros(4))
            inside.append(suits(zeros()))
        with tf.device("CPU:1"):
            second = tf.Variable(tf.zeros(4))
        outside = zeros()
        strategy.run(tf.function(lambda: inside.append(suits(outside))))
        print(suits([mirrored]), suits(list(mirrored.values)), suits([second]), {*inside})
        print(suits(outside))
    """)
    assert printed.splitlines() == ["False False False {False}", "True"]


# -- threads and processes ---------------------------------------------------------------------


def together(*functions: Any) -> None:
    """Run functions in threads, and wait for them for a limited time."""
    failed: list[BaseException] = []

    def guarded(function: Any) -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in functions]
    for one in threads:
        one.start()
    for one in threads:
        one.join(SECONDS)
    assert not any(one.is_alive() for one in threads), "they wait for each other"
    if failed:
        raise failed[0]


def test_readers_in_other_threads_never_see_half_an_update(mode: Any) -> None:
    (variable,) = zeros(shape=(2, 8))
    done = threading.Event()
    seen: set[float] = set()

    def slow(addresses: Any, inputs: Any, outputs: Any) -> None:
        halves = array_at(addresses[0], (2, 8))
        halves[0] += 1
        time.sleep(0.002)  # the interpreter is free: others run
        halves[1] += 1

    @mode
    def step() -> None:
        run_in_place(slow, [variable], [], [], "slow")

    @mode
    def read() -> Any:
        return variable.read_value() * 1.0

    def write() -> None:
        for _ in range(100):
            step()
        done.set()

    def look() -> None:
        while not done.is_set():
            kept = variable.read_value()
            for one in (kept.numpy(), read().numpy()):
                assert len({*one.ravel().tolist()}) == 1
                seen.add(float(one[0, 0]))

    step()
    read()
    together(write, look, look)
    assert len(seen) > 3
    assert set(variable.numpy().ravel()) == {101.0}


def test_threads_that_share_variables_do_not_wait_for_each_other_for_ever() -> None:
    variables = zeros(20)
    add = Adder()
    forth = tf.function(lambda: run_in_place(add, variables, [], [], "forth"))
    back = tf.function(lambda: run_in_place(add, variables[::-1], [], [], "back"))

    @tf.function
    def native() -> None:
        for one in variables:
            one.assign_add(tf.ones(4))

    def many(step: Any) -> Any:
        def run() -> None:
            for _ in range(100):
                step()

        return run

    together(many(forth), many(back), many(native), many(lambda: Adder().seen))
    assert values(variables) == [[300.0] * 4] * 20


@pytest.mark.parametrize("turned", [False, True])
def test_variables_are_locked_in_one_order_whatever_the_order_given(turned: bool) -> None:
    first, second = zeros(2)[:: -1 if turned else 1]
    running = threading.Event()

    def slow(addresses: Any, inputs: Any, outputs: Any) -> None:
        running.set()
        time.sleep(0.6)

    def update(variables: Any, delay: float) -> Any:
        def run() -> None:
            running.wait(SECONDS)
            time.sleep(delay)
            run_in_place(Adder(), variables, [], [], "step")

        return run

    together(
        lambda: run_in_place(slow, [second], [], [], "slow"),
        update([second, first], 0.1),  # waits for the slow one
        update([first, second], 0.3),  # must not take the first meanwhile
    )
    assert values([first, second]) == [[2.0] * 4] * 2


def test_models_in_several_threads_train_as_they_do_alone() -> None:
    def train(result: list[Any]) -> Any:
        def run() -> None:
            variables, add = zeros(5), Adder()
            step = tf.function(lambda: run_in_place(add, variables, [], [], "step"))
            for _ in range(50):
                step()
            result.append(values(variables))

        return run

    results: list[Any] = []
    together(*[train(results) for _ in range(4)])
    assert results == [[[50.0] * 4] * 5] * 4


def test_where_eager_execution_is_asynchronous() -> None:
    printed = run_alone("""
        tf.config.experimental.set_synchronous_execution(False)
        variables = zeros(3)
        assert available() == ""
        add = Adder()
        for _ in range(5):
            run_in_place(add, variables, [], [], "step")
        print(values(variables) == [[5.0] * 4] * 3, len(tensorflow_op._made[0].runs))
    """)
    assert printed == "True 0"


def test_a_process_ends_well_with_ops_alive_and_running() -> None:
    printed = run_alone("""
        variables = zeros(10)
        add, step = grown(variables)
        def forever():
            while True:
                step()
        threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.2)
        print("end")
    """)
    assert printed == "end"


def test_a_child_process_leaves_the_op_alone() -> None:
    printed = run_alone("""
        import os
        variables = zeros()
        add, step = grown(variables)
        child = os.fork()
        if child == 0:
            sys.exit(len(add.seen))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        step()
        print(variables[0].numpy()[0])
    """)
    assert printed.splitlines() == ["3", "4.0"]


def test_the_module_can_be_loaded_again() -> None:
    printed = run_alone("""
        variables = zeros()
        add, step = grown(variables)
        again = importlib.reload(tensorflow_op)
        assert again.available() == ""
        again.run_in_place(add, variables, [], [], "step")
        step()
        print(variables[0].numpy()[0], again._made[0].name)
    """)
    assert printed == "5.0 PellucidUpdateOnHostI"


def test_a_graph_of_another_process_is_refused(tmp_path: Path) -> None:
    run_alone(f"""
        module = tf.Module()
        module.variable = tf.Variable(tf.zeros(4))
        add, _ = Adder(), None
        module.step = tf.function(
            lambda: run_in_place(add, [module.variable], [], [], "step"), input_signature=[]
        )
        tf.saved_model.save(module, {str(tmp_path)!r})
    """)
    printed = run_alone(f"""
        grown(zeros())
        module = tf.saved_model.load({str(tmp_path)!r})
        try:
            module.step()
        except tf.errors.InvalidArgumentError as error:
            print("another process" in str(error), module.variable.numpy().tolist())
    """)
    assert printed == "True [0.0, 0.0, 0.0, 0.0]"


# -- within Keras ------------------------------------------------------------------------------


class Descent(keras.optimizers.Optimizer):
    """Gradient descent by `run_in_place`."""

    def __init__(self, learning_rate: float = 0.125, **arguments: Any) -> None:
        super().__init__(learning_rate, **arguments)
        self.sizes: list[int] = []
        self.addresses: list[Any] = []

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        if not self.built:
            self.build(trainable_variables)
        variables = [one.value for one in self._trainable_variables]
        if not suits(variables):
            raise RuntimeError("does not suit")
        self.sizes = [int(numpy.prod(one.shape)) for one in variables]
        run_in_place(self.step, variables, [*grads, self.learning_rate.value], [], self.name)
        return self.iterations.assign_add(1)

    def step(self, addresses: Any, inputs: Any, outputs: Any) -> None:
        rate = array_at(inputs[-1], ())
        self.addresses.append(addresses.tolist())
        for size, address, gradient in zip(self.sizes, addresses, inputs[:-1], strict=True):
            array_at(address, (size,))[...] -= rate * array_at(gradient, (size,))


def network() -> Any:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((3,)), *layers])


DATA = (
    numpy.random.default_rng(0).normal(size=(24, 3)).astype("float32"),
    numpy.random.default_rng(1).normal(size=(24, 2)).astype("float32"),
)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("eager", [False, True])
def test_fit_gives_what_keras_gives(steps: int, eager: bool, tmp_path: Path) -> None:
    weights = []
    for optimizer in (Descent(), keras.optimizers.SGD(0.125)):
        model = network()
        model.compile(
            optimizer, "mse", metrics=["mae"], run_eagerly=eager, steps_per_execution=steps
        )
        model.fit(*DATA, epochs=2, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
        if isinstance(optimizer, Descent):
            _saved_and_loaded(model, tmp_path)
            assert len(optimizer.addresses) == 12
            assert all(one == optimizer.addresses[0] for one in optimizer.addresses)
    for ours, theirs in zip(*weights, strict=True):
        assert numpy.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def _saved_and_loaded(model: Any, folder: Path) -> None:
    expected = model.predict(DATA[0], verbose=0)
    model.save(folder / "model.keras")
    model.export(folder / "exported", verbose=False)
    again = keras.models.load_model(
        folder / "model.keras", custom_objects={"Descent": Descent}
    )
    assert numpy.array_equal(again.predict(DATA[0], verbose=0), expected)
    served = tf.saved_model.load(str(folder / "exported"))
    assert numpy.allclose(served.serve(DATA[0]), expected, rtol=1e-6)


def test_keras_compiled_by_xla_does_not_suit() -> None:
    model = network()
    model.compile(Descent(), "mse", jit_compile=True)
    with pytest.raises(RuntimeError, match="does not suit"):
        model.fit(*DATA, verbose=0)


def test_validation_between_steps_sees_the_new_weights() -> None:
    model = network()
    model.compile(Descent(), "mse")
    history = model.fit(*DATA, epochs=3, validation_data=DATA, verbose=0).history["val_loss"]
    again = network()
    again.set_weights(model.get_weights())
    again.compile("sgd", "mse")
    assert history[-1] == pytest.approx(again.evaluate(*DATA, verbose=0), rel=1e-6)
    assert history == sorted(history, reverse=True)


def test_the_module_names_the_reason_where_it_does_not_work(monkeypatch: Any) -> None:
    def missing(folder: str) -> Any:
        raise OSError("no such function")

    monkeypatch.setattr(tensorflow_op, "_made", [])
    monkeypatch.setattr(tensorflow_op, "Library", missing)
    assert "no such function" in available()
    assert not suits(zeros())
    with pytest.raises(RuntimeError, match=r"no such function.*TensorFlow's own ops"):
        run_in_place(Adder(), zeros(), [], [], "step")


def test_a_layout_that_misbehaves_is_not_believed(monkeypatch: Any) -> None:
    from pellucid.keras import tensorflow_layout

    class Blind(tensorflow_layout.Probe):
        def _holders(self, context: int, layout: Any) -> list[int]:
            return [1, 1]

    monkeypatch.setattr(tensorflow_op, "_made", [])
    monkeypatch.setattr(tensorflow_op, "Probe", Blind)
    assert "holders" in available()

