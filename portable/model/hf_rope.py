"""Rotary embedding in a Hugging Face ``config.json``, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable.core.errors import ArtefactError
from portable.model.config import RopeConfig, RopeScaling

_YARN_OPTIONAL = ("attention_factor", "mscale", "mscale_all_dim")


def to_hf_rope(rope: RopeConfig) -> dict[str, Any]:  # Any: JSON values
    """Return the content of ``rope_parameters``."""
    if rope.scaling is RopeScaling.none:
        return {"rope_type": "default", "rope_theta": rope.theta}
    scaled: dict[str, Any] = {
        "rope_type": rope.scaling.value,
        "rope_theta": rope.theta,
        "factor": rope.factor,
    }
    if rope.scaling is RopeScaling.linear:
        return scaled
    scaled["original_max_position_embeddings"] = rope.original_max_seq_len
    if rope.scaling is RopeScaling.llama3:
        return scaled | {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    given = {key: value for key in _YARN_OPTIONAL if (value := getattr(rope, key))}
    return scaled | {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow, **given}


def from_hf_rope(hf: Mapping[str, Any], origin: str) -> RopeConfig:  # Any: JSON values
    """Read rotary embedding from a ``config.json``, in the spelling of transformers 5 or the older one.

    Raises: ArtefactError for a formula that we do not have.
    """
    stated: Mapping[str, Any] = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    theta = float(value_or(stated.get("rope_theta"), value_or(hf.get("rope_theta"), 10_000.0)))
    kind = value_or(stated.get("rope_type"), value_or(stated.get("type"), "default"))
    partial = value_or(stated.get("partial_rotary_factor"), value_or(hf.get("partial_rotary_factor"), 1.0))
    if partial != 1.0:
        raise ArtefactError(
            f"{origin}: partial_rotary_factor={partial} is not supported; heads must rotate wholly"
        )
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind not in ("linear", "llama3", "yarn"):
        raise ArtefactError(
            f"{origin}: rope_type={kind!r} is not supported; use default, linear, llama3 or yarn"
        )
    if not stated.get("truncate", True):
        raise ArtefactError(f"{origin}: truncate=false of yarn is not supported; use a checkpoint without it")
    try:
        rope = RopeConfig(theta=theta, scaling=RopeScaling(kind), factor=float(stated["factor"]))
        if kind == "linear":
            return rope
        rope.original_max_seq_len = value_or(
            stated.get("original_max_position_embeddings"), hf["max_position_embeddings"]
        )
        if kind == "llama3":
            rope.low_freq_factor = float(stated["low_freq_factor"])
            rope.high_freq_factor = float(stated["high_freq_factor"])
            return rope
    except KeyError as error:
        raise ArtefactError(
            f"{origin}: rope_type={kind!r} needs {error.args[0]}, which is missing"
        ) from error
    for name in ("beta_fast", "beta_slow", *_YARN_OPTIONAL):
        setattr(rope, name, float(value_or(stated.get(name), getattr(rope, name))))
    return rope


def value_or(value: Any, default: Any) -> Any:  # Any: JSON values
    """Return ``value``, or ``default`` for null, which means absent in these files."""
    return default if value is None else value
