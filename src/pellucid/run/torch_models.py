"""What a torch module tells of itself and its layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from pellucid.run.capturing import is_same
from pellucid.run.constructors import NOTHING, Found, Parameter, Reading, find_arguments
from pellucid.run.plain import class_name
from pellucid.run.record import Findings, Provenance

__all__ = ["find_torch_model"]


def _there(name: str) -> Callable[[Any], bool]:
    return lambda one: getattr(one, name) is not None


def _transformer_layer(name: str) -> Callable[[Any], Any]:
    """The same of the first layer of a whole Transformer."""
    return lambda one: TABLE["TransformerEncoderLayer"][name](one.encoder.layers[0])


_LAYER: dict[str, Callable[[Any], Any]] = {
    "d_model": lambda one: one.linear1.in_features,
    "nhead": lambda one: one.self_attn.num_heads,
    "dim_feedforward": lambda one: one.linear1.out_features,
    "dropout": lambda one: one.dropout.p,
    "activation": lambda one: getattr(one.activation, "__name__", one.activation),
    "layer_norm_eps": lambda one: one.norm1.eps,
    "batch_first": lambda one: one.self_attn.batch_first,
    "norm_first": lambda one: one.norm_first,
    "bias": lambda one: one.linear1.bias is not None,
}
_INSIDE = ("dim_feedforward", "dropout", "activation", "layer_norm_eps", "norm_first", "bias")

TABLE: dict[str, dict[str, Callable[[Any], Any]]] = {
    "Hardtanh": {"min_value": lambda one: one.min_val, "max_value": lambda one: one.max_val},
    "PairwiseDistance": {"p": lambda one: one.norm},
    "MultiheadAttention": {
        "bias": _there("in_proj_bias"),
        "add_bias_kv": _there("bias_k"),
    },
    "TransformerEncoderLayer": _LAYER,
    "TransformerDecoderLayer": _LAYER,
    "Transformer": {
        "num_encoder_layers": lambda one: len(one.encoder.layers),
        "num_decoder_layers": lambda one: len(one.decoder.layers),
        **{name: _transformer_layer(name) for name in _INSIDE},
    },
}
"""Arguments of torch's own layers whose attribute is another, by class."""

_NOT_KEPT = {"_weight", "_freeze", "mode", "values", "modules", "encoder_layer", "decoder_layer",
             "custom_encoder", "custom_decoder", "parameters", "size_average",
             "reduce"}  # fmt: skip


_INNER = {"modules", "parameters", "values", "encoder_layer", "decoder_layer"}


def _own(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.")


def _reader(kind: type) -> Callable[[Any, Parameter], Any] | None:
    """How the table has a class's arguments; None if it has none."""
    rows = [TABLE[base.__name__] for base in kind.__mro__ if base.__name__ in TABLE and _own(base)]
    if not rows:
        return None

    def read(one: Any, parameter: Parameter) -> Any:
        row = rows[0]
        return row[parameter.name](one) if parameter.name in row else NOTHING

    return read


@lru_cache(maxsize=512)
def _reading(kind: Any, configured: bool) -> Reading:
    """How arguments are read from a class's objects.

    Args:
        configured: all layers take their model's configuration, as Hugging Face's do.
    """
    own = _own(kind)
    skip = frozenset({"device", "dtype", *_NOT_KEPT} if own else ())
    passed = skip - _INNER  # `mode` by LSTM, GRU and RNN to their base
    skip |= {"config"} if configured else set()
    return Reading(skip, _own, _reader(kind), passed=passed)


def find_torch_model(findings: Findings, model: Any) -> Found:
    """Write what a torch module has; gives its own arguments."""
    configured = _is_configured(model)
    found = _own_arguments(findings.at("arguments"), model, "", configured)
    parameters: dict[int, tuple[Any, bool]] = {}
    owners: dict[int, str] = {}
    for path, layer, same in _walk(model):
        here = f"layers/{path}"
        if same is not None:
            findings.add(f"{here}/same_as", same or "(the model itself)")
            continue
        if path:
            findings.add(f"{here}/class", class_name(layer))
            _own_arguments(findings, layer, here, configured)
        _find_tied(findings, here if path else "", path, layer, owners)
        held = [one for one in layer._parameters.values() if one is not None]
        parameters.update((id(one), (one, one.requires_grad)) for one in held)
        if path:
            count(findings, f"{here}/", [(one, one.requires_grad) for one in held])
    count(findings, "", list(parameters.values()), trainable=True)
    _find_config(findings, model)
    usual = sys.modules["torch"].get_default_dtype()
    if _own(type(model)) and any(one.dtype != usual for one, _ in parameters.values()):
        found.lost.append("dtype")
    return found


def _find_tied(
    findings: Findings, here: str, path: str, layer: Any, owners: dict[int, str]
) -> None:
    """Write which of a layer's parameters another layer has, too, and by what name there."""
    names = {
        name: f"{path}.{name}" if path else name
        for name, one in layer._parameters.items()
        if one is not None
    }
    tied = {
        name: owners[id(layer._parameters[name])]
        for name, full in names.items()
        if owners.setdefault(id(layer._parameters[name]), full) != full
    }
    if tied:
        findings.at(here).add("tied", tied)


def _is_configured(model: Any) -> bool:
    return hasattr(getattr(model, "config", None), "to_diff_dict")


def _own_arguments(findings: Findings, one: Any, path: str, configured: bool) -> Found:
    kind: Any = type(one)
    return find_arguments(findings, one, path, _reading(kind, configured), _hparams(one))


def _hparams(one: Any) -> dict[str, Any] | None:
    """What `save_hyperparameters` kept."""
    if "_hparams" not in getattr(one, "__dict__", {}):
        return None
    try:
        return dict(one.hparams)
    except Exception:
        return None


def _walk(model: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Each module with its path, in order; a module that was there already, where it was."""
    seen: dict[int, str] = {}
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        path, one = waiting.pop()
        if id(one) in seen:
            yield path, one, seen[id(one)]
            continue
        seen[id(one)] = path
        yield path, one, None
        inner = [
            (f"{path}.{name}" if path else name, child)
            for name, child in one._modules.items()
            if child is not None
        ]
        waiting += reversed(inner)


@lru_cache(maxsize=64)
def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def count(
    findings: Findings, prefix: str, held: list[tuple[Any, bool]], trainable: bool = False
) -> None:
    """Write how many numbers parameters have, all and by dtype; a lazy one's are not known."""
    if not held and not trainable:
        return
    lazy: Any = sys.modules["torch.nn.parameter"].UninitializedTensorMixin
    if any(isinstance(one, lazy) for one, _ in held):
        why = "parameters that get their shape in the first forward pass: run one before"
        findings.miss(f"{prefix}parameters", why)
        return
    dtypes: dict[str, int] = {}
    total = learned = 0
    for one, learns in held:
        size = one.numel()
        total += size
        learned += size if learns else 0
        name = _dtype(one.dtype)
        dtypes[name] = dtypes.get(name, 0) + size
    findings.add(f"{prefix}parameters", total)
    if trainable:
        findings.add("trainable", learned)
    findings.add(f"{prefix}dtypes", dtypes)


def _usual_config(kind: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = kind().to_dict()
    except Exception:  # it has no defaults
        return {}
    return found


def _find_config(findings: Findings, model: Any) -> None:
    """A Hugging Face model's configuration, and Lightning's hyperparameters."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_diff_dict"):
        try:
            values = config.to_dict()
        except Exception as error:
            findings.miss("config", f"{class_name(config)} cannot be read: {error!r:.200}")
        else:
            usual = _usual_config(type(config))
            for key, value in values.items():
                same = is_same(value, usual.get(key, NOTHING))
                provenance: Provenance = "default" if same else "observed"
                findings.add(f"config/{key}", value, provenance, f"{type(config).__name__}.{key}")
    for key, value in (_hparams(model) or {}).items():
        findings.add(f"hparams/{key}", value, "observed", f"{type(model).__name__}.hparams")
