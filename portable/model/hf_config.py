"""Our model shape to a Hugging Face ``config.json`` and back, or a reason why not.

We write what transformers 5 writes, and read both that and the older spelling (``rope_theta``,
``rope_scaling``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from portable.core.errors import ArtefactError
from portable.model.config import Gate, MlaConfig, ModelConfig, MoeConfig, MtpConfig
from portable.model.hf_rope import from_hf_rope, to_hf_rope, value_or
from portable.model.tokenizer import Tokenizer

Json = dict[str, Any]  # Any: config.json holds any JSON value

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
}
# What a checkpoint may carry without changing a formula of ours: anything else that is set is refused, not
# ignored.
_MUST_BE_OFF = ("attention_bias", "mlp_bias", "use_sliding_window", "quantization_config")
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_HEAD_DIM_DEFAULT = {"qwen3": 128}  # elsewhere hidden_size / num_attention_heads
# How ours are called there; the last two are ours alone, and transformers carries them along.
_MLA_KEYS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_BALANCE_KEYS = {"bias_update_rate": "router_bias_update_rate", "router_z_loss_coef": "router_z_loss_coef"}


def architecture(config: ModelConfig) -> str:
    """Return the ``model_type`` whose formulas are those of ``config``.

    Raises: ArtefactError if Hugging Face has none.
    """
    moe, mla = config.moe, config.mla
    if config.qk_norm and config.qkv_bias:
        raise ArtefactError(_no_architecture("qk_norm with qkv_bias"))
    if config.mtp is not None and (moe is None or mla is None):
        raise ArtefactError(_no_architecture("mtp without moe and mla"))
    if moe is None:
        if mla is not None:
            raise ArtefactError(_no_architecture("mla without moe"))
        return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    if config.qkv_bias:
        raise ArtefactError(_no_architecture("moe with qkv_bias"))
    if mla is not None:
        if moe.gate is not Gate.sigmoid or not moe.num_shared_experts:
            raise ArtefactError(_no_architecture("mla with a softmax gate, or without a shared expert"))
        return "deepseek_v3"
    if moe.gate is not Gate.softmax or moe.num_shared_experts:
        raise ArtefactError(_no_architecture("a sigmoid gate, or shared experts, without mla"))
    if config.qk_norm:
        return "qwen3_moe"
    if moe.first_dense_layers or not moe.renormalize:
        raise ArtefactError(_no_architecture("moe.first_dense_layers, or renormalize=false, without qk_norm"))
    return "mixtral"


def _no_architecture(what: str) -> str:
    return f"no architecture of transformers has {what}; change model to the shape of {_kinds()}"


def _kinds() -> str:
    *most, last = sorted(ARCHITECTURES)
    return f"{', '.join(most)} or {last}"


def to_hf_config(config: ModelConfig, tokenizer: Tokenizer, dtype: str) -> Json:
    """Return the content of ``config.json``; ``dtype`` is torch's name, e.g. ``float32``.

    Raises: ArtefactError if no architecture of transformers has these formulas.
    """
    kind = architecture(config)
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
        "head_dim": config.rotary_dim,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "rope_parameters": to_hf_rope(config.rope),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if config.moe is not None:
        hf |= _to_hf_moe(config, config.moe, kind)
    if config.mla is not None:
        hf |= {key: getattr(config.mla, key) for key in _MLA_KEYS}
        hf |= {"q_lora_rank": config.mla.q_lora_rank or None, "rope_interleave": config.mla.rope_interleave}
        hf["num_nextn_predict_layers"] = 0 if config.mtp is None else config.mtp.num_layers
        if config.mtp is not None:
            hf["mtp_loss_coef"] = config.mtp.loss_coef
    if kind == "llama":
        return hf | {"mlp_bias": False}
    if kind in ("qwen2", "qwen3"):
        layer_types = ["full_attention"] * config.num_layers
        return hf | {"use_sliding_window": False, "sliding_window": None, "layer_types": layer_types}
    return hf


def _to_hf_moe(config: ModelConfig, moe: MoeConfig, kind: str) -> Json:
    extra = {key: getattr(moe, name) for name, key in _BALANCE_KEYS.items() if getattr(moe, name)}
    common: Json = {"num_experts_per_tok": moe.top_k, **extra}
    if kind == "mixtral":
        return common | {
            "num_local_experts": moe.num_experts,
            "intermediate_size": moe.intermediate_size,
            "router_aux_loss_coef": moe.aux_loss_coef,
            "sliding_window": None,
        }
    common |= {"moe_intermediate_size": moe.intermediate_size, "norm_topk_prob": moe.renormalize}
    if kind == "qwen3_moe":
        return common | {
            "num_experts": moe.num_experts,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(moe.first_dense_layers)),
            "router_aux_loss_coef": moe.aux_loss_coef,
            "use_sliding_window": False,
            "sliding_window": None,
        }
    return common | {
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": moe.num_shared_experts,
        "n_group": moe.num_groups,
        "topk_group": moe.top_k_groups,
        "first_k_dense_replace": moe.first_dense_layers,
        "routed_scaling_factor": moe.routed_scale,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "aux_loss_alpha": moe.aux_loss_coef,
        "seq_aux": True,
    }


def from_hf_config(hf: Mapping[str, Any], origin: str) -> ModelConfig:
    """Return our shape for the content of a ``config.json``; ``origin`` names it in errors.

    Raises: ArtefactError for an architecture or a setting whose formulas we do not have.
    """
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
        raise ArtefactError(
            f"{origin}: model_type={kind!r} is not supported; use a checkpoint of {_kinds()}, or "
            "engine=hf for inference alone"
        )
    _refuse_unsupported(hf, origin)
    missing = [key for key in _NEEDED if key not in hf]
    if missing:
        raise ArtefactError(
            f"{origin} lacks {', '.join(missing)}; it is no complete config.json, fetch it again"
        )
    try:
        mla = _from_hf_mla(hf) if kind == "deepseek_v3" else None
        moe = _from_hf_moe(hf, kind, origin)
    except KeyError as error:
        raise ArtefactError(
            f"{origin} lacks {error.args[0]}, which a {kind} needs; fetch it again"
        ) from error
    heads: int = hf["num_attention_heads"]
    head_dim = value_or(hf.get("head_dim"), _HEAD_DIM_DEFAULT.get(kind, hf["hidden_size"] // heads))
    num_depths = value_or(hf.get("num_nextn_predict_layers"), 0) if mla else 0
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        intermediate_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=heads if mla else value_or(hf.get("num_key_value_heads"), heads),
        head_dim=mla.qk_head_dim if mla else head_dim,
        max_seq_len=value_or(hf.get("max_position_embeddings"), 2048),
        rms_norm_eps=value_or(hf.get("rms_norm_eps"), 1e-6),
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        qkv_bias=kind == "qwen2",
        init_std=value_or(hf.get("initializer_range"), 0.02),
        rope=from_hf_rope(hf, origin),
        moe=moe,
        mla=mla,
        mtp=MtpConfig(num_layers=num_depths, loss_coef=hf.get("mtp_loss_coef", 0.3)) if num_depths else None,
    )


def _from_hf_mla(hf: Mapping[str, Any]) -> MlaConfig:  # Any: JSON values
    return MlaConfig(
        **{key: hf[key] for key in _MLA_KEYS},
        q_lora_rank=value_or(hf["q_lora_rank"], 0),
        rope_interleave=bool(value_or(hf.get("rope_interleave"), True)),
    )


def _from_hf_moe(hf: Mapping[str, Any], kind: str, origin: str) -> MoeConfig | None:  # Any: JSON values
    balance = {name: value_or(hf.get(key), 0.0) for name, key in _BALANCE_KEYS.items()}
    if kind == "mixtral":
        return MoeConfig(
            num_experts=hf["num_local_experts"],
            top_k=hf["num_experts_per_tok"],
            intermediate_size=hf["intermediate_size"],
            aux_loss_coef=value_or(hf.get("router_aux_loss_coef"), 0.0),
            **balance,
        )
    if kind == "qwen3_moe":
        dense: list[int] = value_or(hf.get("mlp_only_layers"), [])
        if value_or(hf.get("decoder_sparse_step"), 1) != 1 or sorted(dense) != list(range(len(dense))):
            raise ArtefactError(
                f"{origin}: decoder_sparse_step={hf.get('decoder_sparse_step')} with mlp_only_layers={dense} "
                "is not supported; only the first layers may be without experts"
            )
        return MoeConfig(
            num_experts=hf["num_experts"] if "num_experts" in hf else hf["num_local_experts"],
            top_k=hf["num_experts_per_tok"],
            intermediate_size=hf["moe_intermediate_size"],
            first_dense_layers=len(dense),
            renormalize=bool(hf.get("norm_topk_prob", False)),
            aux_loss_coef=value_or(hf.get("router_aux_loss_coef"), 0.0),
            **balance,
        )
    if kind != "deepseek_v3":
        return None
    return MoeConfig(
        num_experts=hf["n_routed_experts"],
        top_k=hf["num_experts_per_tok"],
        intermediate_size=hf["moe_intermediate_size"],
        num_shared_experts=hf["n_shared_experts"],
        first_dense_layers=hf["first_k_dense_replace"],
        gate=Gate.sigmoid,
        renormalize=bool(hf.get("norm_topk_prob", True)),
        routed_scale=value_or(hf.get("routed_scaling_factor"), 1.0),
        num_groups=value_or(hf.get("n_group"), 1),
        top_k_groups=value_or(hf.get("topk_group"), 1),
        aux_loss_coef=value_or(hf.get("aux_loss_alpha"), 0.0),
        **balance,
    )


def _refuse_unsupported(hf: Mapping[str, Any], origin: str) -> None:
    on = [key for key in _MUST_BE_OFF if hf.get(key)]
    if hf.get("model_type") == "mixtral" and hf.get("sliding_window"):
        on.append("sliding_window")
    if on:
        key = on[0]
        raise ArtefactError(f"{origin}: {key}={hf[key]!r} is not supported; use a checkpoint without it")
    if hf.get("hidden_act", "silu") != "silu":
        raise ArtefactError(
            f"{origin}: hidden_act={hf['hidden_act']!r} is not supported; only silu (SwiGLU) is"
        )
    for key, legal in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        if hf.get("model_type") == "deepseek_v3" and hf.get(key, legal) != legal:
            raise ArtefactError(f"{origin}: {key}={hf[key]!r} is not supported; only {legal!r} is")
    sliding = sorted({kind for kind in hf.get("layer_types") or () if kind != "full_attention"})
    if sliding:
        raise ArtefactError(
            f"{origin}: layer_types names {sliding}, not supported; every layer must be full_attention"
        )
