"""Where a run takes place: packages, code, command, flags, threads, devices, seeds.

Only frameworks that are loaded are asked; nothing is imported and no random state is moved.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.run.plain import MASK, is_secret, without_secrets

if TYPE_CHECKING:
    from pellucid.run.record import Findings

__all__ = ["find_environment", "masked"]

PACKAGES: dict[str, str] = {
    "torch": "torch", "torchvision": "torchvision", "tensorflow": "tensorflow", "keras": "keras",
    "tf_keras": "tf_keras", "jax": "jax", "jaxlib": "jaxlib", "flax": "flax", "optax": "optax",
    "equinox": "equinox", "lightning": "lightning", "pytorch_lightning": "pytorch-lightning",
    "transformers": "transformers", "accelerate": "accelerate", "datasets": "datasets",
    "timm": "timm", "sklearn": "scikit-learn", "numpy": "numpy", "scipy": "scipy",
    "pandas": "pandas", "numba": "numba", "pellucid": "pellucid",
}  # fmt: skip
"""Packages whose versions count, by module."""

PATIENCE = 2.0  # seconds for git
DEFAULT_SEED = 67280421310721
"""What torch's generator begins with, where nobody seeds it."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
           "TF_NUM_INTEROP_THREADS", "NUMBA_NUM_THREADS")  # fmt: skip
FLAGS = ("CUBLAS_WORKSPACE_CONFIG", "TF_DETERMINISTIC_OPS", "TF_CUDNN_DETERMINISTIC", "XLA_FLAGS",
         "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE")  # fmt: skip


def find_environment(findings: Findings) -> None:
    """Keep where the run takes place; what cannot be read is missed, with why."""
    parts: tuple[tuple[str, Callable[[Findings], None]], ...] = (
        ("python", _find_python), ("packages", _find_packages), ("command", _find_command),
        ("git", _find_git), ("flags", _find_flags), ("threads", _find_threads),
        ("device", _find_devices), ("seeds", _find_seeds),
    )  # fmt: skip
    for name, find in parts:
        try:
            find(findings)
        except Exception as error:  # one framework's fault hides nothing else
            findings.miss(name, f"{type(error).__name__}: {error}")


def _find_python(findings: Findings) -> None:
    findings.add("python", platform.python_version(), "observed", "platform.python_version()")
    findings.add("platform", _platform(), "observed", "platform.platform()")


@functools.cache
def _platform() -> str:
    return platform.platform()


@functools.cache
def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _find_packages(findings: Findings) -> None:
    for module, distribution in PACKAGES.items():
        if module not in sys.modules:
            continue
        version = _version(distribution) or getattr(sys.modules[module], "__version__", None)
        if version is None:
            findings.miss(f"packages/{module}", "it is loaded, but not installed as a package")
        else:
            findings.add(f"packages/{module}", version, "observed", f"metadata of {distribution}")


# -- the command -------------------------------------------------------------------------------


def masked(arguments: Sequence[str]) -> list[str]:
    """A command line without secrets: of ``--api-key abc``, ``--api-key=abc`` and ``user:abc@``."""
    found: list[str] = []
    hide = False
    for text in arguments:
        if hide and not text.startswith("--"):
            found.append(MASK)
            hide = False
            continue
        name, equals, value = text.partition("=")
        secret = is_secret(re.split(r"[./]", name.lstrip("-+~"))[-1])
        hide = secret and not equals and text.startswith("-")
        text = f"{name}={MASK}" if secret and equals and value else text
        found.append(without_secrets(text))
    return found


def _find_command(findings: Findings) -> None:
    findings.add("command", masked(sys.argv), "observed", "sys.argv")


def _find_git(findings: Findings) -> None:
    """The commit and whether tracked files differ from it."""
    command = ["git", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch",
               "--untracked-files=no"]  # fmt: skip
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False,
            cwd=Path.cwd(), stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        findings.miss("git", f"git did not answer: {type(error).__name__}")
        return
    if run.returncode:
        said = run.stderr.strip().partition("\n")[0]
        findings.miss("git", f"the working directory has no repository: {said}")
        return
    lines = run.stdout.splitlines()
    told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    findings.add("git/commit", told.get("branch.oid"), "observed", "git status")
    findings.add("git/branch", told.get("branch.head"), "observed", "git status")
    dirty = any(not line.startswith("#") for line in lines)
    findings.add("git/dirty", dirty, "observed", "git status, of files that git tracks")


# -- flags, threads, devices -------------------------------------------------------------------


def _find_flags(findings: Findings) -> None:
    at = findings.at("flags")
    torch = sys.modules.get("torch")
    if torch is not None:
        cudnn = torch.backends.cudnn
        for name, read in (
            ("deterministic_algorithms", torch.are_deterministic_algorithms_enabled),
            ("deterministic_warn_only", torch.is_deterministic_algorithms_warn_only_enabled),
            ("float32_matmul_precision", torch.get_float32_matmul_precision),
            ("default_dtype", torch.get_default_dtype),
            ("cudnn/benchmark", lambda: cudnn.benchmark),
            ("cudnn/deterministic", lambda: cudnn.deterministic),
            ("cudnn/enabled", lambda: cudnn.enabled),
            ("cudnn/allow_tf32", lambda: cudnn.allow_tf32),
        ):
            _read(at, f"torch/{name}", read, "torch")
    config = sys.modules.get("tensorflow.python.eager.context")
    if config is not None:
        ops = sys.modules.get("tensorflow.python.framework.config")
        _read(at, "tensorflow/deterministic_ops", lambda: ops.is_op_determinism_enabled(),  # type: ignore[union-attr]  # no module: missed
              "tensorflow")  # fmt: skip
    keras = sys.modules.get("keras")
    if keras is not None:
        _read(at, "keras/backend", lambda: keras.config.backend(), "keras.config")
        _read(at, "keras/floatx", lambda: keras.config.floatx(), "keras.config")
        _read(at, "keras/epsilon", lambda: keras.config.epsilon(), "keras.config")
        _read(at, "keras/dtype_policy", lambda: keras.config.dtype_policy().name, "keras.config")
    jax = sys.modules.get("jax")
    if jax is not None:
        _read(at, "jax/enable_x64", lambda: jax.config.jax_enable_x64, "jax.config")
        _read(at, "jax/default_matmul_precision",
              lambda: jax.config.jax_default_matmul_precision, "jax.config")  # fmt: skip
        _read(at, "jax/default_prng_impl", lambda: jax.config.jax_default_prng_impl, "jax.config")
    for name in FLAGS:
        if name in os.environ:
            at.add(f"environment/{name}", os.environ[name], "observed", "os.environ")


def _read(findings: Findings, path: str, read: Callable[[], Any], source: str) -> None:
    try:
        findings.add(path, read(), "observed", source)
    except Exception as error:  # an attribute of another version
        findings.miss(path, f"{type(error).__name__}: {error}")


def _find_threads(findings: Findings) -> None:
    at = findings.at("threads")
    at.add("cpus", os.cpu_count(), "observed", "os.cpu_count()")
    if hasattr(os, "sched_getaffinity"):
        at.add("usable", len(os.sched_getaffinity(0)), "observed", "os.sched_getaffinity")
    torch = sys.modules.get("torch")
    if torch is not None:
        _read(at, "torch", torch.get_num_threads, "torch.get_num_threads()")
        _read(at, "torch_interop", torch.get_num_interop_threads, "torch.get_num_interop_threads()")
    for name in THREADS:
        if name in os.environ:
            at.add(name, os.environ[name], "observed", "os.environ")


def _find_devices(findings: Findings) -> None:
    """Accelerators, as far as asking starts none: jax and TensorFlow are asked once in use."""
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = torch.cuda.is_available()
        findings.add("device/torch", "cuda" if cuda else "cpu", "observed", "torch.cuda")
        if cuda:
            count = torch.cuda.device_count()
            names = [torch.cuda.get_device_name(n) for n in range(count)]
            findings.add("device/gpus", names, "observed", "torch.cuda.get_device_name")
            findings.add("device/cuda", torch.version.cuda, "observed", "torch.version.cuda")
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is not None:
        if getattr(bridge, "_backends", None):
            jax = sys.modules["jax"]
            found = [f"{one.platform}: {one.device_kind}" for one in jax.devices()]
            findings.add("device/jax", found, "observed", "jax.devices()")
        else:
            findings.miss("device/jax", "jax has not been used yet; asking would start its devices")
    context = sys.modules.get("tensorflow.python.eager.context")
    if context is not None:
        held = context.context_safe()
        if held is not None and getattr(held, "_initialized", False):
            names = [str(one.name) for one in held.list_logical_devices()]
            findings.add("device/tensorflow", names, "observed", "tf.config.list_logical_devices")
        else:
            findings.miss("device/tensorflow", "TensorFlow has not been used yet; asking would "
                          "start its devices")  # fmt: skip


# -- seeds -------------------------------------------------------------------------------------


def _find_seeds(findings: Findings) -> None:
    at = findings.at("seeds")
    held = os.environ.get("PYTHONHASHSEED")
    if held:
        at.add("PYTHONHASHSEED", held, "observed", "os.environ")
    else:
        at.miss("PYTHONHASHSEED", "it is not set: hashes of texts differ between runs")
    at.add("random_state", _digest(repr(random.getstate()).encode()), "observed",
           "a digest of random.getstate()")  # fmt: skip
    at.miss("random", "Python's random keeps its state, not the seed")
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        state = numpy.get_state()
        at.add("numpy_state", _digest(state[1].tobytes() + repr(state[2:]).encode()), "observed",
               "a digest of numpy.random.get_state()")  # fmt: skip
        at.miss("numpy", "NumPy's global generator keeps its state, not the seed")
    torch = sys.modules.get("torch")
    if torch is not None:
        seed = torch.initial_seed()
        at.add("torch", seed, "default" if seed == DEFAULT_SEED else "observed",
               "torch.initial_seed()")  # fmt: skip
    keras = sys.modules.get("keras.src.utils.rng_utils")
    if keras is not None:
        _seed(at, "keras", keras.get_random_seed, "keras.utils.set_random_seed was not called")
    context = sys.modules.get("tensorflow.python.eager.context")
    if context is not None:
        _seed(at, "tensorflow", context.global_seed, "tf.random.set_seed was not called")
    if "PL_GLOBAL_SEED" in os.environ:
        at.add("lightning", os.environ["PL_GLOBAL_SEED"], "observed", "PL_GLOBAL_SEED")
    if "jax" in sys.modules:
        at.miss("jax", "jax has no global seed: its keys are the program's own")


def _seed(findings: Findings, path: str, read: Callable[[], Any], unset: str) -> None:
    try:
        seed = read()
    except Exception as error:  # an attribute of another version
        findings.miss(path, f"{type(error).__name__}: {error}")
        return
    if seed is None:
        findings.miss(path, unset)
    else:
        findings.add(path, int(seed), "observed", "the global seed")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
