"""Kernels on disk: damage is repaired, processes do not disturb each other, source is readable."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import float64, int64

import pellucid.numpy
from pellucid import Rule, hyper
from pellucid.fuse import cache

SOURCE = "def twice(x):\n    return x + x  # a comment that makes it ours\n"
SIGNATURE = float64(float64)
FLAGS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}}


class Compiled:
    """Compiles as a new process would, and counts how often Numba had to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.times = patch, 0
        save = cache._save

        def counting(*args: Any) -> None:
            self.times += 1
            save(*args)

        patch.setattr(cache, "_save", counting)

    def __call__(self, source: str = SOURCE, **changes: Any) -> Any:
        self.patch.setattr(cache, "_made", {})  # what this process remembers
        given = {"signature": SIGNATURE, "flags": FLAGS, **changes}
        return cache.compiled(source, "twice", dict, given["signature"], given["flags"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    return Compiled(monkeypatch)


def only(folder: Path, ending: str) -> Path:
    (found,) = folder.glob(f"*{ending}")
    return found


def whole(binary: Path) -> bool:
    data = binary.read_bytes()
    return hashlib.sha256(data[32:]).digest() == data[:32]


def test_second_process_reads_the_first_ones_file(folder: Path, compiled: Compiled) -> None:
    assert compiled()(2.0) == 4.0
    assert whole(only(folder, ".bin"))
    assert compiled()(3.0) == 6.0
    assert compiled.times == 1
    assert {path.suffix for path in folder.iterdir()} == {".py", ".bin"}, "a file was left over"


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def signed(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:16],
        lambda data: data[:32],
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        flipped,
        lambda data: bytes([data[0] ^ 255]) + data[1:],
        lambda data: data + b"\0",
        lambda data: bytes(len(data)),
        lambda data: signed(b"not a pickle"),
        lambda data: signed(pickle.dumps((1, 2, 3))),
        lambda data: signed(data[32:-40]),
    ],
    ids=[
        "empty", "half a digest", "digest alone", "a byte less", "half", "a bit in the middle",
        "a bit in the digest", "a byte more", "zeros", "no pickle", "a foreign pickle",
        "a pickle cut short",
    ],
)  # fmt: skip
def test_damaged_file_is_made_again(
    damage: Callable[[bytes], bytes], folder: Path, compiled: Compiled
) -> None:
    assert compiled()(2.0) == 4.0
    binary = only(folder, ".bin")
    binary.write_bytes(damage(binary.read_bytes()))
    assert compiled()(3.0) == 6.0
    assert compiled.times == 2
    assert only(folder, ".bin") == binary
    assert whole(binary)
    assert compiled()(4.0) == 8.0
    assert compiled.times == 2, "the repaired file is read"


def test_damaged_source_is_written_again(folder: Path, compiled: Compiled) -> None:
    compiled()
    path = only(folder, ".py")
    for damage in (b"", b"def twice(x):\n    return 3 * x\n"):
        path.write_bytes(damage)
        assert compiled()(2.0) == 4.0
        assert path.read_text() == SOURCE
    path.unlink()
    assert compiled()(2.0) == 4.0
    assert path.read_text() == SOURCE
    assert compiled.times == 1


@pytest.mark.parametrize(
    "change",
    [
        {"source": SOURCE.replace("x + x", "2 * x")},
        {"signature": int64(int64)},
        {"flags": {**FLAGS, "fastmath": {"contract", "nsz"}}},
        {"flags": {**FLAGS, "error_model": "numpy"}},
    ],
    ids=["source", "signature", "fastmath", "another flag"],
)
def test_key_covers(change: dict[str, Any], folder: Path, compiled: Compiled) -> None:
    compiled()
    assert compiled(**change)(2) == 4
    assert compiled.times == len(list(folder.glob("*.bin"))) == 2


def test_key_covers_machine_and_versions(
    folder: Path, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llvmlite
    import numba

    parts = cache._machine()
    for part in (cache.EMITTER, numba.__version__, llvmlite.__version__, sys.version):
        assert part in parts
    compiled()
    monkeypatch.setattr(cache, "_machine", lambda: parts + "x")
    compiled()
    assert compiled.times == len(list(folder.glob("*.bin"))) == 2


def test_full_disk(folder: Path, compiled: Compiled, tmp_path: Path) -> None:
    """Nothing is left half-written, and the kernel runs."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    compiled.patch.setattr(cache.os, "replace", full)
    compiled.patch.setattr(cache, "_temporary", lambda: tmp_path)
    assert compiled()(2.0) == 4.0
    assert list(folder.iterdir()) == []
    assert only(tmp_path, ".py").read_text() == SOURCE


# -- where nothing can be written --------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A regular file: no folder can be made under it, whoever asks."""
    path = tmp_path / "file"
    path.write_text("")
    yield path
    assert path.read_text() == ""


STEP = """
import sys, warnings
import numpy as np
import pellucid.numpy
from pellucid import Rule, hyper

class Plain(Rule):
    rate = hyper(0.5)
    def update(self, param, grad):
        return param - self.rate * grad * {factor}

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range({times}):
        params = {{"p": np.ones(3), "q": np.ones(3, np.float32)}}
        one = pellucid.numpy.Optimizer(params, Plain())
        one.step([np.ones_like(param) for param in params.values()])
print(*params["p"], *params["q"])
for one in caught:
    print(one.category.__name__, one.message)
"""


def process(script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(one: subprocess.Popen[str]) -> list[str]:
    printed, errors = one.communicate(timeout=180)
    assert one.returncode == 0, errors
    assert errors == ""
    return printed.splitlines()


def test_folder_that_cannot_be_written(file: Path, tmp_path: Path) -> None:
    """One warning, which says what to do; kernels work, in a temporary folder."""
    script = STEP.format(times=3, factor=1)
    wanted = file / "cache"
    lines = output(process(script, PELLUCID_CACHE=str(wanted), TMPDIR=str(tmp_path)))
    numbers, warning = lines
    assert numbers == "0.5 0.5 0.5 0.5 0.5 0.5"
    assert warning.startswith(f"RuntimeWarning the kernel cache {wanted} cannot be written")
    assert "set PELLUCID_CACHE" in warning
    (temporary,) = tmp_path.glob("pellucid-*")
    assert {path.suffix for path in temporary.iterdir()} == {".py", ".bin"}


def test_home_that_cannot_be_written(file: Path, tmp_path: Path) -> None:
    script = STEP.format(times=1, factor=1)
    environment = {"XDG_CACHE_HOME": str(file), "PELLUCID_CACHE": "", "TMPDIR": str(tmp_path)}
    numbers, warning = output(process(script, **environment))
    assert numbers == "0.5 0.5 0.5 0.5 0.5 0.5"
    assert str(file / "pellucid") in warning


def test_folders_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PELLUCID_CACHE", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.cache_folder() == tmp_path / "home" / "pellucid"
        monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "own"))
        assert cache.cache_folder() == tmp_path / "own"
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0, "others could put code there"


# -- several at once ---------------------------------------------------------------------------


def test_processes_that_compile_the_same_at_once(tmp_path: Path) -> None:
    """All succeed, and the file that stays is whole."""
    gate = tmp_path / "go"
    waiting = f"""
import os, time
import pellucid.numpy, pellucid.fuse.runtime
open({str(tmp_path)!r} + f"/ready{{os.getpid()}}", "w").close()
while not os.path.exists({str(gate)!r}):
    time.sleep(0.001)
"""
    folder = tmp_path / "cache"
    script = waiting + STEP.format(times=1, factor=2)
    started = [process(script, PELLUCID_CACHE=str(folder)) for _ in range(3)]
    while len(list(tmp_path.glob("ready*"))) < 3 and all(one.poll() is None for one in started):
        threading.Event().wait(0.01)
    gate.write_text("")
    assert [output(one) for one in started] == [["0.0 0.0 0.0 0.0 0.0 0.0"]] * 3
    binaries = list(folder.glob("*.bin"))
    assert len(binaries) == 2, "float32 and float64"
    assert all(map(whole, binaries))
    assert {path.suffix for path in folder.iterdir()} == {".py", ".bin"}


def test_threads_that_compile_the_same_at_once(folder: Path, compiled: Compiled) -> None:
    compiled.patch.setattr(cache, "_made", {})
    found = []
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(timeout=60)
        found.append(cache.compiled(SOURCE, "twice", dict, SIGNATURE, FLAGS))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 4
    assert len({id(one) for one in found}) == 1
    assert compiled.times == 1


# -- the source --------------------------------------------------------------------------------


class Readable(Rule):
    """A rule whose kernel is read."""

    learning_rate = hyper(0.5)

    def update(self, param: Any, grad: Any) -> Any:
        return param - self.learning_rate * grad


@pytest.fixture
def kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(cache, "_made", {})  # another test may have had the same kernel
    one = pellucid.numpy.Optimizer({"p": np.ones(3)}, Readable())
    assert one.step([np.ones(3)])
    (plan,) = one._plans.values()
    return plan.launch.tables[0].program.kernels["final_0"]


def test_source_is_a_file(kernel: Any, folder: Path) -> None:
    function = kernel.py_func
    path = Path(function.__code__.co_filename)
    assert path.parent == folder
    text = path.read_text()
    for word in ("# compute type float64", "def final_0(", "learning_rate", "# param", "# grad"):
        assert word in text
    assert text.isascii()
    assert inspect.getsource(function) == text[text.index("def final_0(") :]
    line = function.__code__.co_firstlineno
    assert linecache.getline(str(path), line).startswith("def final_0(")


def test_traceback_shows_the_kernels_lines(kernel: Any) -> None:
    with pytest.raises(TypeError) as caught:
        kernel.py_func(0, 1, *[None] * 9)
    shown = "".join(traceback.format_exception(caught.value))
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert Path(frame.filename).exists()
    assert frame.name == "final_0"
    assert frame.line == "if control[1] > 0 and c + control[1] < last:"
    assert "if control[1] > 0 and c + control[1] < last:" in shown


def test_numbers_functions_have_source(kernel: Any) -> None:
    """What runs on the host, too."""
    one = pellucid.numpy.Optimizer({"p": np.ones(3)}, Readable())
    assert one.step([np.ones(3)])
    (plan,) = one._plans.values()
    function = plan.launch.tables[0].program.numbers[0].compute
    with pytest.raises(KeyError) as caught:
        function({}, 1.0, {}, {}, {}, {})
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert frame.line == "learning_rate = hypers['learning_rate']"
