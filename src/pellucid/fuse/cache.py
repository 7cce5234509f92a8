"""Compiled kernels on disk: named by all that they depend on, checked by digest, written whole.

The key covers source, flags, signature, processor and the versions of Pellucid's emitter, Numba
and llvmlite. A file that is damaged, or that another version wrote, is compiled again. Where the
folder cannot be written, a temporary one serves this process, and a warning says so.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["cache_folder", "compiled"]

EMITTER = "2"  # raise when generated code changes its meaning without changing its text
_DIGEST = 32
_lock = threading.RLock()


def _default_folder() -> Path:
    if given := os.environ.get("PELLUCID_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pellucid"


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="pellucid-"))


@lru_cache(maxsize=8)
def _usable(wanted: Path) -> Path:
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=wanted):
            pass
    except OSError as error:
        warnings.warn(
            f"the kernel cache {wanted} cannot be written ({error.strerror}): kernels are kept in "
            "a temporary folder for this process; set PELLUCID_CACHE to a folder of yours",
            RuntimeWarning,
            stacklevel=2,
        )
        return _temporary()
    return wanted


def cache_folder() -> Path:
    """Where kernels are kept: ``$PELLUCID_CACHE``, else ``pellucid`` in the user's cache."""
    return _usable(_default_folder())


@cache
def _machine() -> str:
    """The processor and the versions that compiled code depends on."""
    import llvmlite
    import llvmlite.binding
    import numba

    features = llvmlite.binding.get_host_cpu_features().flatten()
    parts = [EMITTER, numba.__version__, llvmlite.__version__, sys.version, features]
    return "\n".join([*parts, llvmlite.binding.get_host_cpu_name()])


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that others see the old one or the new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def source_file(source: str, key: str) -> Path:
    """A real file that holds the source, for tracebacks and debuggers."""
    path = cache_folder() / f"kernel_{key}.py"
    data = source.encode()
    try:
        if not path.exists() or path.read_bytes() != data:
            _write_whole(path, data)
    except OSError:
        path = _temporary() / path.name
        path.write_bytes(data)
    return path


def _load(path: Path, dispatcher: Any, signature: Any) -> bool:
    """Give the dispatcher the code that the file holds; False if there is none that is whole."""
    from numba.core import compiler
    from numba.core.runtime.nrt import rtsys

    try:
        data = path.read_bytes()
    except OSError:
        return False
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        return False
    import pickle  # the folder is the user's own, as Numba's cache is

    context = dispatcher.targetctx
    # Finished code needs the C functions that it calls, not what `context.refresh` would import:
    # everything that Numba can compile. That takes half a second.
    rtsys.initialize(context)
    try:
        result = compiler.CompileResult._rebuild(  # type: ignore[no-untyped-call]
            context, *pickle.loads(payload)
        )
        context.insert_user_function(result.entry_point, result.fndesc, [result.library])
        dispatcher.add_overload(result)
    except Exception:  # whatever a foreign file makes Numba raise: compile again
        return False
    return True


def _save(path: Path, dispatcher: Any) -> None:
    from numba.core import serialize

    result = next(iter(dispatcher.overloads.values()))
    payload = serialize.dumps(result._reduce())  # type: ignore[no-untyped-call]
    try:
        _write_whole(path, hashlib.sha256(payload).digest() + payload)
    except OSError:
        return  # a full disk costs the next process a compilation, nothing else


def compiled(
    source: str,
    name: str,
    names: Callable[[], dict[str, Any]],
    signature: Any,
    flags: dict[str, Any],
) -> Any:
    """The function ``name`` of the source, compiled by Numba or read from the cache.

    Args:
        source: Python source; kept in a file, so that a debugger steps through it.
        name: the function in it.
        names: makes the global names that the source uses.
        signature: Numba's signature.
        flags: Numba's options.
    """
    import numba

    ordered = {k: sorted(v) if isinstance(v, set) else v for k, v in sorted(flags.items())}
    described = "\n".join([source, name, str(signature), repr(ordered)])
    key = hashlib.sha256(f"{described}\n{_machine()}".encode()).hexdigest()[:32]
    with _lock:
        return _compiled(source, name, names, signature, flags, key, numba.njit)


_made: dict[str, Any] = {}


def _compiled(
    source: str,
    name: str,
    names: Callable[[], dict[str, Any]],
    signature: Any,
    flags: dict[str, Any],
    key: str,
    njit: Any,
) -> Any:
    if key in _made:
        return _made[key]
    path = source_file(source, key)
    module = ModuleType(f"pellucid.kernel_{key}")
    module.__file__ = str(path)
    vars(module).update(names())
    sys.modules[module.__name__] = module  # Numba looks functions' modules up
    exec(compile(source, str(path), "exec"), vars(module))
    dispatcher = njit(**flags)(vars(module)[name])
    binary = path.with_suffix(".bin")
    if not _load(binary, dispatcher, signature):
        dispatcher.compile(signature)
        _save(binary, dispatcher)
    dispatcher.disable_compile()
    _made[key] = dispatcher
    return dispatcher
