"""What a run is fed with: loaders, pipelines, arrays; never their content."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pellucid.run.constructed import NOTHING, BadArgument, defaults_of, provenance
from pellucid.run.constructors import add_arguments
from pellucid.run.plain import class_name, is_array

if TYPE_CHECKING:
    from pellucid.run.record import Findings

__all__ = ["find_data"]


def find_data(findings: Findings, data: Any) -> None:
    """Keep how data is read.

    Args:
        data: a DataLoader of torch, a tf.data.Dataset, a PyDataset of Keras, a data set of Hugging
            Face, arrays, a tuple of these, or a mapping from name to any of them.

    Raises:
        BadArgument: it is no data.
    """
    for holds, find in KINDS:
        if holds(data):
            find(findings, data)
            return
    if isinstance(data, (str, bytes)) or not (
        hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    ):
        raise BadArgument(
            f"data is {class_name(data)}; allowed is a DataLoader of torch, a tf.data.Dataset, a "
            "PyDataset of Keras, a Hugging Face data set, arrays, a tuple of these, or a mapping "
            "from name to any of them"
        )
    _find_other(findings, data)


def _of(module: str, *names: str) -> Callable[[Any], bool]:
    """Whether an object's class or one of its bases is of this package and name."""

    def holds(data: Any) -> bool:
        return any(
            base.__name__ in names and base.__module__.partition(".")[0] == module
            for base in type(data).__mro__
        )

    return holds


def _length(findings: Findings, path: str, data: Any) -> None:
    try:
        findings.add(path, len(data), "observed", f"len({type(data).__name__})")
    except Exception as error:  # none, or a stranger's
        findings.miss(path, f"it tells no length: {type(error).__name__}")


# -- torch -------------------------------------------------------------------------------------


LOADER = (
    "batch_size", "drop_last", "num_workers", "pin_memory", "prefetch_factor", "persistent_workers",
    "timeout", "worker_init_fn",
)  # fmt: skip
SHUFFLES = {"RandomSampler": True, "SequentialSampler": False, "SeedableRandomSampler": True}


def _find_loader(findings: Findings, loader: Any) -> None:
    findings.add("class", class_name(loader))
    defaults = defaults_of(sys.modules["torch"].utils.data.DataLoader)
    batches: Any = getattr(loader, "batch_sampler", None)
    if type(batches).__name__ == "BatchSampler" and loader.batch_size is None:  # it was given
        findings.add("batch_size", batches.batch_size, "observed", "BatchSampler.batch_size")
        findings.add("drop_last", batches.drop_last, "observed", "BatchSampler.drop_last")
    for name in LOADER:
        value, default = getattr(loader, name, None), defaults.get(name, NOTHING)
        findings.add(name, value, provenance(value, default), f"DataLoader.{name}")
    sampler = getattr(loader, "sampler", None)
    if batches is not None and type(batches).__name__ != "BatchSampler":
        add_arguments(findings.at("batch_sampler"), batches, skip=("sampler",))
        _batch(findings, batches)
    if batches is not None and loader.batch_size is None:  # given: the loader's sampler is unused
        sampler = getattr(batches, "sampler", batches)
    shuffles = SHUFFLES.get(type(sampler).__name__, getattr(sampler, "shuffle", None))
    if shuffles is None:
        findings.miss("shuffle", f"its sampler, {class_name(sampler)}, does not tell")
    else:
        kind = provenance(shuffles, False)
        findings.add("shuffle", shuffles, kind, f"its sampler, {type(sampler).__name__}")
    if sampler is not None:
        add_arguments(findings.at("sampler"), sampler, skip=("data_source", "generator", "dataset"))
    generator = getattr(loader, "generator", None) or getattr(sampler, "generator", None)
    if generator is not None:
        findings.add("seed", generator.initial_seed(), "observed", "generator.initial_seed()")
    elif shuffles:
        findings.miss("seed", "the loader has no generator of its own: torch's global one shuffles")
    collate = getattr(loader, "collate_fn", None)
    own = getattr(collate, "__name__", "")
    kind = "default" if own in ("default_collate", "default_convert") else "observed"
    findings.add("collate_fn", collate, kind, "DataLoader.collate_fn")
    _find_dataset(findings.at("dataset"), loader.dataset)
    _length(findings, "batches", loader)


def _batch(findings: Findings, batches: Any) -> None:
    """What a batch sampler of another class says of the batch."""
    size = getattr(batches, "batch_size", None)
    if size is not None:  # DataLoader's own is None then
        findings.add("batch_sampler/batch_size", size, "observed", f"{type(batches).__name__}")


def _find_dataset(findings: Findings, dataset: Any) -> None:
    """The class, the length and the simple arguments of what a loader reads."""
    if _of("datasets", "Dataset", "IterableDataset")(dataset):
        _find_hugging_face(findings, dataset)
        return
    if type(dataset).__module__ == "builtins":
        findings.add("class", class_name(dataset))
    else:
        add_arguments(findings, dataset, skip=("tensors", "data", "dataset", "indices"))
    if hasattr(dataset, "__len__"):
        _length(findings, "length", dataset)
    else:
        findings.miss("length", "the data set is read one after another")
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, (tuple, list)) and all(map(is_array, tensors)):
        _find_several(findings.at("tensors"), tensors)
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # a Subset
        _find_dataset(findings.at("of"), dataset.dataset)


# -- tf.data -----------------------------------------------------------------------------------

OPERATIONS: dict[str, tuple[str, ...]] = {
    "BatchDataset": ("_batch_size", "_drop_remainder", "_num_parallel_calls", "_deterministic"),
    "PaddedBatchDataset": ("_batch_size", "_drop_remainder"),
    "ShuffleDataset": ("_buffer_size", "_seed", "_seed2", "_reshuffle_each_iteration"),
    "RepeatDataset": ("_count",),
    "PrefetchDataset": ("_buffer_size",),
    "MapDataset": ("_map_func", "_num_parallel_calls", "_deterministic"),
    "InterleaveDataset": (
        "_map_func", "_cycle_length", "_block_length", "_num_parallel_calls", "_deterministic",
    ),
    "FlatMapDataset": ("_map_func",),
    "FilterDataset": ("_predicate",),
    "CacheDataset": ("_filename",),
    "TakeDataset": ("_count",),
    "SkipDataset": ("_count",),
    "ShardDataset": ("_num_shards", "_index"),
    "WindowDataset": ("_size", "_shift", "_stride", "_drop_remainder"),
    "RangeDataset": ("_start", "_stop", "_step"),
}  # fmt: skip
"""What an operation of tf.data holds; a class's name without underscores and ``Parallel``."""

SUMMARY: tuple[tuple[str, str, str], ...] = (
    ("BatchDataset", "batch_size", "batch_size"),
    ("PaddedBatchDataset", "batch_size", "batch_size"),
    ("BatchDataset", "drop_remainder", "drop_remainder"),
    ("ShuffleDataset", "buffer_size", "shuffle_buffer"),
    ("ShuffleDataset", "seed", "shuffle_seed"),
    ("RepeatDataset", "count", "repeat"),
    ("PrefetchDataset", "buffer_size", "prefetch"),
    ("MapDataset", "num_parallel_calls", "map_parallelism"),
)
"""Of these operations the last one's value also stands by a name of its own."""

MANY = 200  # operations of a pipeline


def _find_tf_data(findings: Findings, dataset: Any) -> None:
    findings.add("class", "tensorflow.data.Dataset")
    operations = [_operation(one) for one in _pipeline(dataset)]
    findings.add("operations", operations, "observed", "the chain of _input_dataset")
    summary: dict[str, Any] = {}
    shuffled = False
    for one in operations:
        shuffled = shuffled or one["operation"] == "ShuffleDataset"
        for kind, held, path in SUMMARY:
            if one["operation"] == kind and held in one:
                summary[path] = one[held]
    for path, value in summary.items():
        if path == "shuffle_seed" and value is None:
            continue
        findings.add(path, value, "observed", "the last such operation")
    findings.add("shuffle", shuffled, "observed", "whether the pipeline shuffles")
    if shuffled and summary.get("shuffle_seed") is None:
        findings.miss("shuffle_seed", "the shuffle has no seed of its own, and keeps none")
    findings.add("element_spec", _spec(dataset.element_spec), "observed", "element_spec")
    try:
        count = int(dataset.cardinality())
    except Exception as error:  # inside of a graph
        findings.miss("batches", f"{type(error).__name__}: {error}")
        return
    if count >= 0:
        findings.add("batches", count, "observed", "cardinality()")
    else:
        findings.add("batches", {-1: "infinite", -2: "unknown"}.get(count), "observed",
                     "cardinality()")  # fmt: skip


def _pipeline(dataset: Any) -> list[Any]:
    """The operations of a pipeline, in the order in which data flows; inputs of a zip as well."""
    found: list[Any] = []
    waiting, seen = [dataset], set()
    while waiting and len(found) < MANY:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found.append(one)
        above = getattr(one, "_input_dataset", None)
        several = [above] if above is not None else []
        for name in ("_datasets", "_input_datasets", "_dataset"):
            held = getattr(one, name, None)
            if held is not None:
                several += held if isinstance(held, (tuple, list)) else [held]
        waiting += several
    return found[::-1]


def _operation(one: Any) -> dict[str, Any]:
    name = type(one).__name__.strip("_").replace("Parallel", "")
    found: dict[str, Any] = {"operation": name}
    for attribute in OPERATIONS.get(name, ()):
        if hasattr(one, attribute):
            value = _host(getattr(one, attribute))
            known = NUMBERS.get(attribute) if value == -1 else None
            found[attribute.strip("_")] = value if known is None else known
    if "seed2" in found:
        found["seed"] = _seed(found["seed"], found.pop("seed2"))
    return found


NUMBERS = {"_num_parallel_calls": "AUTOTUNE", "_buffer_size": "AUTOTUNE", "_count": "infinite"}
"""What -1 stands for."""

NO_GLOBAL_SEED = 87654321
"""What TensorFlow puts in the place of a global seed that was not set."""


def _seed(first: Any, second: Any) -> Any:
    """An operation's seed; with a global one both, of which the second may have been counted."""
    if (first, second) == (0, 0):
        return None
    return second if first == NO_GLOBAL_SEED else {"global": first, "operation": second}


def _host(value: Any) -> Any:
    """A tensor's number; a mapped function itself; AUTOTUNE by its name."""
    value = getattr(value, "_func", value)
    value = getattr(value, "function", value) if not callable(value) else value
    value = getattr(value, "__wrapped__", value)
    if is_array(value):
        try:
            value = value.numpy()
            value = value.item() if hasattr(value, "item") else value
        except Exception:  # inside of a graph it has no value
            return "unknown"
        value = value.decode() if isinstance(value, bytes) else value
    big = 1 << 62
    if isinstance(value, int) and not isinstance(value, bool) and value >= big:
        return "infinite"
    return value


def _spec(spec: Any) -> Any:
    """Shapes and dtypes."""
    if isinstance(spec, Mapping):
        return {key: _spec(one) for key, one in spec.items()}
    if isinstance(spec, (tuple, list)):
        return [_spec(one) for one in spec]
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        try:
            shape: Any = [None if n is None else int(n) for n in spec.shape]
        except ValueError:
            shape = None  # of unknown rank
        return {"shape": shape, "dtype": spec.dtype.name}
    return class_name(spec)


# -- Keras, Hugging Face, Lightning ------------------------------------------------------------


def _find_py_dataset(findings: Findings, dataset: Any) -> None:
    findings.add("class", class_name(dataset))
    for name, default in (("workers", 1), ("use_multiprocessing", False), ("max_queue_size", 10)):
        value = getattr(dataset, name, None)
        findings.add(name, value, provenance(value, default), f"PyDataset.{name}")
    add_arguments(findings, dataset)
    try:
        findings.add("batches", dataset.num_batches, "observed", "PyDataset.num_batches")
    except Exception as error:  # a stranger's __len__
        findings.miss("batches", f"it tells no length: {type(error).__name__}")


def _find_hugging_face(findings: Findings, dataset: Any) -> None:
    findings.add("class", class_name(dataset))
    if hasattr(dataset, "num_rows"):
        findings.add("length", dataset.num_rows, "observed", "num_rows")
    else:
        findings.miss("length", "the data set is read one after another")
    for name, path in (
        ("builder_name", "builder"), ("config_name", "config"), ("split", "split"),
        ("version", "version"), ("_fingerprint", "fingerprint"), ("n_shards", "shards"),
    ):  # fmt: skip
        value = getattr(dataset, name, None)
        if value is not None:
            findings.add(path, value if isinstance(value, (int, str)) else str(value), "observed",
                         f"{type(dataset).__name__}.{name}")  # fmt: skip
    features = getattr(dataset, "features", None)
    if features:
        findings.add("features", {key: str(one) for key, one in features.items()})


def _find_module(findings: Findings, module: Any) -> None:
    """A LightningDataModule: what it was constructed with."""
    add_arguments(findings, module)
    for name, value in dict(getattr(module, "hparams", None) or {}).items():
        findings.add(name, value, "observed", f"{type(module).__name__}.hparams")


# -- arrays and the rest -----------------------------------------------------------------------


def _find_array(findings: Findings, array: Any) -> None:
    findings.add("class", class_name(array))
    findings.add("shape", [None if n is None else int(n) for n in array.shape])
    findings.add("dtype", str(array.dtype).removeprefix("torch."))


def _find_frame(findings: Findings, frame: Any) -> None:
    findings.add("class", class_name(frame))
    findings.add("shape", list(frame.shape))
    findings.add("columns", {str(key): str(one) for key, one in frame.dtypes.items()})


def _find_several(findings: Findings, data: Any) -> None:
    for number, one in enumerate(data):
        if one is not None:
            find_data(findings.at(str(number)), one)


def _find_mapping(findings: Findings, data: Mapping[Any, Any]) -> None:
    for name, one in data.items():
        if one is not None:
            find_data(findings.at(str(name)), one)


def _find_other(findings: Findings, data: Any) -> None:
    """A data set or iterable of another class."""
    if hasattr(data, "__next__"):
        findings.add("class", class_name(data))
        findings.miss("length", "an iterator tells no length")
        return
    _find_dataset(findings, data)


def _holds_data(data: Any) -> bool:
    """Whether a tuple or list has data inside, not numbers or texts."""
    return (
        isinstance(data, (tuple, list))
        and 0 < len(data) <= MANY
        and not any(isinstance(one, (int, float, complex, str, bytes)) for one in data)
    )


KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Findings, Any], None]], ...] = (
    (_of("torch", "DataLoader"), _find_loader),
    (_of("tensorflow", "DatasetV2"), _find_tf_data),
    (_of("keras", "PyDataset"), _find_py_dataset),
    (_of("datasets", "Dataset", "IterableDataset"), _find_hugging_face),
    (_of("lightning", "LightningDataModule"), _find_module),
    (_of("pytorch_lightning", "LightningDataModule"), _find_module),
    (_of("pandas", "DataFrame"), _find_frame),
    (is_array, _find_array),
    (lambda data: isinstance(data, Mapping), _find_mapping),
    (_holds_data, _find_several),
)
"""Who takes what, first match wins."""
