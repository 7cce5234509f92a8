"""A NumPy optimizer's checkpoint: one ``.npz`` file, no pickle.

``parameter`` and ``parameter/slot`` arrays, and under ``__pellucid__`` JSON text: updates, seed,
groups, schedules, optimizer-wide slots, journal. All is checked before anything changes.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from pellucid.changes import Journal
from pellucid.controls import Controls
from pellucid.fuse.engine import slot_kind, slot_shape

if TYPE_CHECKING:
    from pellucid.numpy.optimizer import Optimizer

__all__ = ["load", "save"]

TEXT = "__pellucid__"
FORMAT = 1


def _description(optimizer: Optimizer) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "updates": optimizer.updates,
        "seed": optimizer.seed,
        "shared": [[ordinal, full, value] for (ordinal, full), value in optimizer.shared.items()],
        "groups": [
            {
                "name": controls.label,
                "params": controls.store["params"],
                "values": {full: _number(controls.raw(full)) for full in controls.names.places},
                "schedules": controls.state(),
            }
            for controls in optimizer.controls
        ],
        "journal": optimizer.journal.to_dict(),
    }


def _number(value: Any) -> Any:
    return value if isinstance(value, (bool, str)) or value is None else float(value)


def save(optimizer: Optimizer, file: Any) -> None:
    """Write the checkpoint; a file that was there stays whole until the new one is."""
    arrays: dict[str, Any] = dict(optimizer.params)
    for name, slots in optimizer.state.items():
        for full, array in slots.items():
            arrays[f"{name}/{full}"] = array
    text = json.dumps(_description(optimizer)).encode()
    arrays[TEXT] = numpy.frombuffer(text, numpy.uint8)
    path = Path(file)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            _write_archive(stream, arrays)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_archive(stream: Any, arrays: Mapping[str, Any]) -> None:
    """As `numpy.savez`, which has names of its own that no array may bear."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                numpy.lib.format.write_array(member, numpy.asanyarray(array), allow_pickle=False)


def load(optimizer: Optimizer, file: Any) -> None:
    """Read a checkpoint into an optimizer of the same parameters, groups and slots."""
    with numpy.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    text = arrays.pop(TEXT, None)
    if text is None:
        raise ValueError(f"{file}: this is no Pellucid checkpoint: it has no {TEXT!r}")
    described = json.loads(text.tobytes())
    if described.get("format") != FORMAT:
        raise ValueError(
            f"{file}: format {described.get('format')!r}; this version reads format {FORMAT}"
        )
    params, slots = _checked_arrays(optimizer, arrays)
    stores = _checked_groups(optimizer, described["groups"])
    journal = _checked_journal(file, described["journal"])
    for name, array in params.items():
        numpy.copyto(optimizer.params[name], array)
    optimizer.state.clear()
    optimizer.state.update(slots)
    _restore(optimizer, described, stores, journal)


def _checked_journal(file: Any, described: Any) -> Journal:
    try:
        return Journal.from_list(described)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: the journal in it is damaged: {error!r}") from error


def _checked_arrays(
    optimizer: Optimizer, arrays: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    params = {name: array for name, array in arrays.items() if "/" not in name}
    if set(params) != set(optimizer.params):
        odd = sorted(set(params) ^ set(optimizer.params))
        raise ValueError(
            f"the checkpoint's parameters are {', '.join(params)}, this optimizer's "
            f"{', '.join(optimizer.params)}: they differ in {', '.join(odd)}"
        )
    for name, array in params.items():
        _same(f"parameter {name!r}", array, optimizer.params[name])
    slots: dict[str, dict[str, Any]] = {}
    entries = {entry.name: entry for entry in optimizer.entries}
    for key, array in arrays.items():
        name, slash, full = key.rpartition("/")
        if not slash:
            continue
        entry = entries.get(name)
        known = entry.pipeline.slots if entry else {}
        if entry is None or full not in known:
            raise ValueError(
                f"the checkpoint has a slot {key!r}; {optimizer.stage!r} has for {name!r} "
                f"{', '.join(known) or 'none'}: load it into an optimizer with the same rule"
            )
        shape = entry.param.shape
        wanted = slot_shape(slot_kind(known[full][1], shape, key), shape)
        if array.shape != wanted:
            raise ValueError(f"the checkpoint's {key!r} has shape {array.shape}, not {wanted}")
        slots.setdefault(name, {})[full] = _laid_out(entry.param, array)
    return params, slots


def _laid_out(param: Any, array: Any) -> Any:
    """The array, laid out in memory as a parameter of its shape is."""
    if array.shape != param.shape:
        return array.copy()
    made = numpy.empty_like(param, dtype=array.dtype, order="K")
    numpy.copyto(made, array)
    return made


def _same(what: str, array: Any, mine: Any) -> None:
    if array.shape != mine.shape or array.dtype != mine.dtype:
        raise ValueError(
            f"the checkpoint's {what} has shape {array.shape} and dtype {array.dtype}, this "
            f"optimizer's {mine.shape} and {mine.dtype}"
        )


def _checked_groups(optimizer: Optimizer, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    mine = [list(controls.store["params"]) for controls in optimizer.controls]
    if [group["params"] for group in groups] != mine:
        raise ValueError(
            f"the checkpoint's groups are {[group['params'] for group in groups]}, this "
            f"optimizer's {mine}: build it with the same groups"
        )
    stores = []
    for group, controls in zip(groups, optimizer.controls, strict=True):
        values = {**controls.pipeline.given, **group["values"]}
        unknown = set(group["values"]) - set(controls.names.places)
        if unknown:
            raise ValueError(
                f"the checkpoint sets {min(unknown)!r} in {group['name']!r}, which is no "
                f"hyperparameter here ({', '.join(controls.names.places)})"
            )
        scratch = Controls(
            controls.label, controls.pipeline, controls.names, {}, values, Journal()
        )
        scratch.restore(group["schedules"])
        scratch.read(0)
        stores.append({key: scratch.store[key] for key in controls.names.native_keys()})
    return stores


def _restore(
    optimizer: Optimizer,
    described: Mapping[str, Any],
    stores: list[dict[str, Any]],
    journal: Journal,
) -> None:
    for controls in optimizer.controls:
        controls.look(optimizer.updates)
    old = [dict(controls.seen) for controls in optimizer.controls]
    optimizer.journal.load(journal, int(described["updates"]))
    optimizer.updates = int(described["updates"])
    optimizer.seed = optimizer.engine.seed = int(described["seed"])
    optimizer.shared = {(int(o), full): float(v) for o, full, v in described["shared"]}
    for number, controls in enumerate(optimizer.controls):
        controls.store.update(stores[number])
        controls.restore(described["groups"][number]["schedules"])
        controls.loaded()
        controls.settle(old[number], optimizer.updates, ours=True)
    optimizer.forget_plans()
