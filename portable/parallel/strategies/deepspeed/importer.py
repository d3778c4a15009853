"""A DeepSpeed JSON into our settings: every key is taken over, checked against what the run does, or refused.

What a file says about the batch, the optimiser, clipping and number formats is set elsewhere here; a file
that says something else would describe another run than the one that is started.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from portable.core.errors import ConfigError
from portable.core.storage import explain_os_errors
from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.strategies.deepspeed.config import (
    AioConfig,
    DeepspeedConfig,
    OffloadOptimizerConfig,
    OffloadParamConfig,
)
from portable.parallel.strategies.deepspeed.document import OFFLOADS, ZERO, Document, TrainingFacts

AUTO = "auto"  # a value that the framework around DeepSpeed fills in: ours
_ALIASES = {
    "prefetch_bucket_size": "stage3_prefetch_bucket_size",
    "param_persistence_threshold": "stage3_param_persistence_threshold",
    "max_live_parameters": "stage3_max_live_parameters",
    "max_reuse_distance": "stage3_max_reuse_distance",
    "module_granularity_threshold": "stage3_module_granularity_threshold",
}
_PARTS = {
    "offload_optimizer": OffloadOptimizerConfig,
    "offload_param": OffloadParamConfig,
    "aio": AioConfig,
}
_DEFAULTS = {entry.name: entry.default for entry in fields(DeepspeedConfig)}
# Top-level keys whose only honoured value is that of doing nothing, and what takes their place.
_OFF = {
    "fp16": ("compute in bf16 or fp32: precision=bf16", {"enabled": False}),
    "amp": ("use precision=bf16", {"enabled": False}),
    "scheduler": ("set schedule=cosine, linear or wsd", None),
    "prescale_gradients": ("gradients add up here and nothing scales them", False),
    "gradient_predivide_factor": ("gradients add up here and nothing scales them", 1.0),
    "sparse_gradients": ("gradients are dense here", False),
    "dump_state": ("read runtime.json of the run", False),
    "wall_clock_breakdown": ("read metrics.jsonl of the run", False),
    "memory_breakdown": ("read metrics.jsonl of the run", False),
    "flops_profiler": ("read mfu in metrics.jsonl, or use portable trace", {"enabled": False}),
    "autotuning": ("set sizes by hand", {"enabled": False}),
}
_SILENT = {  # they choose what DeepSpeed prints or allows, or say what is so here in any case
    "steps_per_print": None,
    "zero_allow_untested_optimizer": None,
    "zero_force_ds_cpu_optimizer": True,
    "gradient_allreduce_op": None,
}


def read_document(path: Path) -> Document:
    """Return a file's settings. Raises: ConfigError if it is no JSON object."""
    with explain_os_errors(path, "read"):
        text = path.read_text()
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"strategy.config_file={path} is not JSON: {error}") from None
    except _RepeatedKeyError as error:
        raise ConfigError(
            f"strategy.config_file={path} gives the key {error} twice in one object; keep one of them"
        ) from None
    if not isinstance(document, dict):
        raise ConfigError(f"strategy.config_file={path} is not a JSON object; DeepSpeed's settings are one")
    return document


class _RepeatedKeyError(ValueError):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found


def import_settings(config: DeepspeedConfig, precision: PrecisionConfig) -> DeepspeedConfig:
    """Return ``config`` with what its ``config_file`` says of the engine.

    Raises: ConfigError that lists every key which is not honoured, and why.
    """
    if not config.config_file:
        return config
    path = Path(config.config_file)
    document = read_document(path)
    complaints: list[str] = []
    settings = _engine_settings(document, complaints)
    complaints += _format_complaints(document, precision)
    complaints += _unknown(document)
    _raise(path, complaints)
    return replace(config, **settings)


def check_training(config: DeepspeedConfig, facts: TrainingFacts) -> None:
    """Raises:

    ConfigError that lists every key of ``config_file`` which says something else than the run does.
    """
    if not config.config_file:
        return
    path = Path(config.config_file)
    document = read_document(path)
    expected = {
        "train_batch_size": ("global_batch_size", facts.global_batch_size),
        "train_micro_batch_size_per_gpu": ("micro_batch_size", facts.micro_batch_size),
        "gradient_accumulation_steps": (
            "global_batch_size / micro_batch_size / ranks that read",
            facts.grad_accum_steps,
        ),
        "gradient_clipping": ("max_grad_norm", facts.max_grad_norm),
    }
    complaints = _differences("", document, expected)
    if "gradient_clipping" not in document and not _same(1.0, facts.max_grad_norm):
        complaints.append(
            "gradient_clipping is not in the file, where DeepSpeed takes 1.0; "
            f"max_grad_norm={facts.max_grad_norm}"
        )
    complaints += _optimizer_complaints(document.get("optimizer"), facts)
    _raise(path, complaints)


def _engine_settings(document: Document, complaints: list[str]) -> dict[str, Any]:  # Any: our settings
    zero = document.get("zero_optimization", {})
    if not isinstance(zero, dict):
        complaints.append('zero_optimization is no object; use {"stage": 1}')
        return {}
    settings: dict[str, Any] = {}
    for key, value in zero.items():
        name, where = _ALIASES.get(key, key), f"zero_optimization.{key}"
        if name in settings:
            complaints.append(f"{where} says again what {name} says; keep one of them")
        elif name in OFFLOADS:
            settings[name] = _part(where, name, value, complaints)
        elif name not in ZERO:
            complaints.append(f"{where} has no counterpart; remove it")
        elif value != AUTO:
            settings[name] = _fitting(where, value, _DEFAULTS[name], complaints)
    if "aio" in document:
        settings["aio"] = _part("aio", "aio", document["aio"], complaints)
    return {"stage": 0} | settings  # DeepSpeed's default, not ours


def _part(where: str, name: str, values: object, complaints: list[str]) -> object:
    kind = _PARTS[name]
    defaults = {entry.name: entry.default for entry in fields(kind)}
    if not isinstance(values, dict):
        complaints.append(f"{where} is no object")
        return kind()
    given: dict[str, Any] = {}  # Any: JSON values
    for key, value in values.items():
        own = "intra_op_parallelism" if key == "thread_count" else key
        if own in given:
            complaints.append(f"{where}.{key} says again what {own} says; keep one of them")
        elif own not in defaults:
            complaints.append(f"{where}.{key} has no counterpart; remove it")
        elif value != AUTO:
            given[own] = _fitting(f"{where}.{key}", value, defaults[own], complaints)
    try:
        return kind(**given)
    except ConfigError as error:
        complaints.append(str(error))
        return kind()


def _fitting(where: str, value: object, default: object, complaints: list[str]) -> object:
    """Return ``value`` in the kind of its default; DeepSpeed's examples write sizes as 1e9."""
    kind = bool if default is None else type(default)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind and value is not default:
        complaints.append(f"{where}={value!r} is no {kind.__name__}")
        return default
    return value


def _format_complaints(document: Document, precision: PrecisionConfig) -> Iterator[str]:
    """Yield what a file says about number formats and the run does not do."""
    formats: dict[str, str] = {
        "fp16": "fp16",
        "fp32": "fp32",
        "bf16": "bf16",
        "bfloat16": "bf16",
        "float32": "fp32",
    }
    for key in ("bf16", "bfloat16"):
        section = document.get(key, {})
        enabled = section.get("enabled", False) if isinstance(section, dict) else section
        computes_narrow = precision.compute_dtype is Dtype.bf16
        if key in document and enabled not in (AUTO, computes_narrow):
            yield f"{key}.enabled={enabled}, but precision.compute_dtype={precision.compute_dtype.name}"
        if isinstance(section, dict):
            yield from (f"{key}.{own} has no counterpart; remove it" for own in section if own != "enabled")
    if not {"bf16", "bfloat16"} & document.keys() and precision.compute_dtype is not Dtype.fp32:
        yield f"bf16 is not in the file, but precision.compute_dtype={precision.compute_dtype.name}"
    data_types = document.get("data_types", {})
    if not isinstance(data_types, dict):
        yield "data_types is no object"
        data_types = {}
    places = {
        "communication_data_type": document.get("communication_data_type", AUTO),
        "data_types.grad_accum_dtype": data_types.get("grad_accum_dtype", AUTO),
    }
    for where, value in places.items():
        if value not in (AUTO, None) and formats.get(str(value)) != precision.reduce_dtype.name:
            yield f"{where}={value}, but precision.reduce_dtype={precision.reduce_dtype.name}"
    for key in data_types:
        if key != "grad_accum_dtype":
            yield f"data_types.{key} has no counterpart; remove it"


def _optimizer_complaints(section: Any, facts: TrainingFacts) -> list[str]:  # Any: a JSON value
    if section is None:
        return []
    if not isinstance(section, dict) or not isinstance(section.get("params", {}), dict):
        return ["optimizer is no object of type and params"]
    complaints: list[str] = []
    kind = section.get("type", AUTO)
    params = section.get("params", {})
    decouples = params.get("adam_w_mode", True)
    is_adamw = kind in (AUTO, "AdamW") or (kind == "Adam" and decouples)
    if not is_adamw or facts.optimizer != "adamw":
        complaints.append(f"optimizer.type={kind}, but optim={facts.optimizer}")
    expected = {
        "lr": ("optim.lr", facts.lr),
        "betas": ("optim.beta1, beta2", list(facts.betas)),
        "eps": ("optim.eps", facts.eps),
        "weight_decay": ("optim.weight_decay", facts.weight_decay),
    }
    complaints += _differences("optimizer.params.", params, expected)
    own = {*expected, "torch_adam", "adam_w_mode", "fused"}
    complaints += [
        f"optimizer.params.{key} has no counterpart; remove it" for key in params if key not in own
    ]
    complaints += [f"optimizer.{key} has no counterpart" for key in section if key not in ("type", "params")]
    return complaints


def _differences(
    prefix: str, values: Mapping[str, Any], expected: Mapping[str, tuple[str, Any]]
) -> list[str]:
    return [
        f"{prefix}{key}={values[key]}, but {ours}={'other in every step' if value is None else value}"
        for key, (ours, value) in expected.items()
        if key in values and values[key] != AUTO and not _same(values[key], value)
    ]


def _same(found: Any, wanted: Any) -> bool:  # Any: JSON values
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_same, found, wanted))
    if wanted is None:
        return found is None
    return isinstance(found, (int, float)) and math.isclose(found, wanted, rel_tol=1e-12)


def _unknown(document: Document) -> Iterator[str]:
    """Yield the top-level keys that are not honoured."""
    handled = {"zero_optimization", "aio", "bf16", "bfloat16", "communication_data_type", "data_types"}
    handled |= {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    handled |= {"gradient_clipping", "optimizer"}
    for key, value in document.items():
        if key in handled or value == AUTO:
            continue
        if key in _SILENT:
            if _SILENT[key] is not None and value != _SILENT[key]:
                yield f"{key}={value} is not so here; use {_SILENT[key]}"
            continue
        if key in _OFF:
            remedy, idle = _OFF[key]
            if not _is_idle(value, idle):
                yield f"{key} is not taken over; {remedy}"
            continue
        yield f"{key} has no counterpart here; remove it"


def _is_idle(value: Any, idle: Any) -> bool:  # Any: JSON values
    if isinstance(idle, dict):
        return isinstance(value, dict) and value.get("enabled", False) in (False, AUTO)
    return value == idle


def _raise(path: Path, complaints: list[str]) -> None:
    if complaints:
        lines = "".join(f"\n  - {complaint}" for complaint in complaints)
        raise ConfigError(
            f"strategy.config_file={path} asks for {len(complaints)} thing{'s' * (len(complaints) > 1)} that "
            f"this run would not do; change the file or the settings, nothing is ignored:{lines}"
        )
