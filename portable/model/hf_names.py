"""Hugging Face's names of our parameters. Where ours holds all experts, theirs is a tensor for each."""

from __future__ import annotations

import re

from portable.core.errors import ArtefactError
from portable.model.config import ModelConfig
from portable.model.hf_config import architecture

_WHOLE = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_LAYER = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.q_down": "self_attn.q_a_proj",
    "attention.q_down_norm": "self_attn.q_a_layernorm",
    "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_down_norm": "self_attn.kv_a_layernorm",
    "attention.kv_up": "self_attn.kv_b_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mlp.shared.gate": "mlp.shared_experts.gate_proj",
    "mlp.shared.up": "mlp.shared_experts.up_proj",
    "mlp.shared.down": "mlp.shared_experts.down_proj",
    "mlp.router": "mlp.gate",
    "input_norm": "input_layernorm",
    "post_norm": "post_attention_layernorm",
}
_BIASED = ("attention.q", "attention.k", "attention.v")
_ROUTER_BIAS = "mlp.router.bias", "mlp.gate.e_score_correction_bias"
# DeepSeek-V3 stores a depth of multi-token prediction as one layer more.
_DEPTH = {
    "embed_norm": "enorm",
    "hidden_norm": "hnorm",
    "projection": "eh_proj",
    "norm": "shared_head.norm",
}
_EXPERTS = re.compile(r"mlp\.experts\.(gate|up|down)")
_MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}
_OURS = re.compile(r"(?:(?P<kind>blocks|mtp)\.(?P<index>\d+)\.)(?P<rest>.+)")


def hf_name(name: str, config: ModelConfig | None = None) -> str:
    """Return Hugging Face's name of our parameter or buffer, e.g. ``blocks.0.mlp.up.weight``.

    Without ``config`` only of what is called the same in every architecture.
    Raises: ArtefactError for a name that is none of ours, or that several tensors stand for.
    """
    if name in _WHOLE:
        return _WHOLE[name]
    match = _OURS.fullmatch(name)
    if match is None:
        raise _unknown(name)
    index, rest = int(match["index"]), match["rest"]
    if match["kind"] == "mtp":
        if config is None:
            raise _unknown(name)
        index += config.num_layers
        depth, _, suffix = rest.rpartition(".")
        if depth in _DEPTH and suffix == "weight":
            return f"model.layers.{index}.{_DEPTH[depth]}.weight"
        rest = rest.removeprefix("block.")
    theirs = f"model.layers.{index}.{_layer_name(rest, name)}"
    return theirs.replace(".mlp.", ".block_sparse_moe.") if _is_mixtral(config) else theirs


def hf_parts(name: str, num_experts: int, config: ModelConfig) -> dict[str, int | None]:
    """Return the tensors that make up our parameter: one, with None, or one for every index of its first dim.

    ``num_experts`` is the length of that dim.
    """
    match = _EXPERTS.search(name)
    if match is None or not name.endswith(match[0]):
        return {hf_name(name, config): None}
    matrix = match[1]
    router = hf_name(name.replace(match[0], "mlp.router.weight"), config)
    experts = router.removesuffix("gate.weight") + "experts"
    theirs = _MIXTRAL[matrix] if _is_mixtral(config) else f"{matrix}_proj"
    return {f"{experts}.{index}.{theirs}.weight": index for index in range(num_experts)}


def plain_name(theirs: str) -> str:
    """Return a tensor's name without the words that only Mixtral's first files use: newer ones may be like
    the others' already."""
    plain = theirs.replace(".block_sparse_moe.", ".mlp.")
    for ours, word in _MIXTRAL.items():
        plain = plain.replace(f".{word}.weight", f".{ours}_proj.weight")
    return plain


def _layer_name(rest: str, name: str) -> str:
    if rest == _ROUTER_BIAS[0]:
        return _ROUTER_BIAS[1]
    part, _, suffix = rest.rpartition(".")
    if part in _LAYER and (suffix == "weight" or (suffix == "bias" and part in _BIASED)):
        return f"{_LAYER[part]}.{suffix}"
    raise _unknown(name)


def _is_mixtral(config: ModelConfig | None) -> bool:
    return config is not None and config.moe is not None and architecture(config) == "mixtral"


def _unknown(name: str) -> ArtefactError:
    return ArtefactError(
        f"the parameter '{name}' is not one of a decoder; save the model without its wrappers"
    )
