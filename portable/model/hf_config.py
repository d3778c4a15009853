"""Our model shape to a Hugging Face ``config.json`` and back, or a reason why not.

We write what transformers 5 writes, and read both that and the older spelling (``rope_theta``,
``rope_scaling``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable.core.errors import ArtefactError
from portable.model.config import ModelConfig, RopeConfig, RopeScaling
from portable.model.tokenizer import Tokenizer

Json = dict[str, Any]  # Any: config.json holds any JSON value

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What a checkpoint may carry without changing a formula of ours: anything else that is set is refused, not
# ignored.
_MUST_BE_OFF = ("attention_bias", "mlp_bias", "use_sliding_window", "quantization_config")
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_HEAD_DIM_DEFAULT = {"qwen3": 128}  # llama's is hidden_size / num_attention_heads


def to_hf_config(config: ModelConfig, tokenizer: Tokenizer, dtype: str) -> Json:
    """Return the content of ``config.json``; ``dtype`` is torch's name, e.g. ``float32``."""
    kind = "qwen3" if config.qk_norm else "llama"
    hf: Json = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "rope_parameters": _to_hf_rope(config.rope),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "llama":
        return hf | {"mlp_bias": False}
    layer_types = ["full_attention"] * config.num_layers
    return hf | {"use_sliding_window": False, "sliding_window": None, "layer_types": layer_types}


def from_hf_config(hf: Mapping[str, Any], origin: str) -> ModelConfig:
    """Return our shape for the content of a ``config.json``; ``origin`` names it in errors.

    Raises: ArtefactError for an architecture or a setting whose formulas we do not have.
    """
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
        raise ArtefactError(
            f"{origin}: model_type={kind!r} is not supported; use a checkpoint of "
            f"{' or '.join(sorted(ARCHITECTURES))}, or engine=hf for inference alone"
        )
    _refuse_unsupported(hf, origin)
    missing = [key for key in _NEEDED if key not in hf]
    if missing:
        raise ArtefactError(
            f"{origin} lacks {', '.join(missing)}; it is no complete config.json, fetch it again"
        )
    heads: int = hf["num_attention_heads"]
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        intermediate_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=_or(hf.get("num_key_value_heads"), heads),
        head_dim=_or(hf.get("head_dim"), _HEAD_DIM_DEFAULT.get(kind, hf["hidden_size"] // heads)),
        max_seq_len=_or(hf.get("max_position_embeddings"), 2048),
        rms_norm_eps=_or(hf.get("rms_norm_eps"), 1e-6),
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        qk_norm=kind == "qwen3",
        init_std=_or(hf.get("initializer_range"), 0.02),
        rope=_from_hf_rope(hf, origin),
    )


def _refuse_unsupported(hf: Mapping[str, Any], origin: str) -> None:
    on = [key for key in _MUST_BE_OFF if hf.get(key)]
    if on:
        key = on[0]
        raise ArtefactError(f"{origin}: {key}={hf[key]!r} is not supported; use a checkpoint without it")
    if hf.get("hidden_act", "silu") != "silu":
        raise ArtefactError(
            f"{origin}: hidden_act={hf['hidden_act']!r} is not supported; only silu (SwiGLU) is"
        )
    sliding = sorted({kind for kind in hf.get("layer_types") or () if kind != "full_attention"})
    if sliding:
        raise ArtefactError(
            f"{origin}: layer_types names {sliding}, not supported; every layer must be full_attention"
        )


def _to_hf_rope(rope: RopeConfig) -> Json:
    if rope.scaling is RopeScaling.none:
        return {"rope_type": "default", "rope_theta": rope.theta}
    scaled: Json = {"rope_type": rope.scaling.value, "rope_theta": rope.theta, "factor": rope.factor}
    if rope.scaling is RopeScaling.linear:
        return scaled
    return scaled | {
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_max_seq_len,
    }


def _from_hf_rope(hf: Mapping[str, Any], origin: str) -> RopeConfig:
    stated: Mapping[str, Any] = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    theta = float(_or(stated.get("rope_theta"), _or(hf.get("rope_theta"), 10_000.0)))
    kind = _or(stated.get("rope_type"), _or(stated.get("type"), "default"))
    partial = _or(stated.get("partial_rotary_factor"), _or(hf.get("partial_rotary_factor"), 1.0))
    if partial != 1.0:
        raise ArtefactError(
            f"{origin}: partial_rotary_factor={partial} is not supported; heads must rotate wholly"
        )
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind not in ("linear", "llama3"):
        raise ArtefactError(f"{origin}: rope_type={kind!r} is not supported; use default, linear or llama3")
    try:
        if kind == "linear":
            return RopeConfig(theta=theta, scaling=RopeScaling.linear, factor=float(stated["factor"]))
        return RopeConfig(
            theta=theta,
            scaling=RopeScaling.llama3,
            factor=float(stated["factor"]),
            low_freq_factor=float(stated["low_freq_factor"]),
            high_freq_factor=float(stated["high_freq_factor"]),
            original_max_seq_len=_or(
                stated.get("original_max_position_embeddings"), hf["max_position_embeddings"]
            ),
        )
    except KeyError as error:
        raise ArtefactError(
            f"{origin}: rope_type={kind!r} needs {error.args[0]}, which is missing"
        ) from error


def _or(value: Any, default: Any) -> Any:  # Any: JSON values; null means absent in these files
    return default if value is None else value
