"""Tiny random models of transformers, written as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 37,  # odd, so that its parts are uneven
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": {key: value for key, value in SIZES.items() if key != "head_dim"},
    "qwen3": SIZES | {"tie_word_embeddings": True},
    "mixtral": SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": SIZES | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt_neox": {key: SIZES[key] for key in list(SIZES)[:5]} | {"max_position_embeddings": 64},
    "gemma": SIZES | {"pad_token_id": 0},
    "mistral": SIZES | {"sliding_window": 4},
    # A head that scales, and no word on how matrices divide.
    "granite": SIZES | {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "attention_multiplier": 0.5},
    "gpt2": {
        "vocab_size": 37,
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 64,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    },
}


def make_folder(kind: str, path: Path) -> Path:
    """Write a model of ``kind`` with biases and norms that are not trivial."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 if parameter.ndim == 1 else 0.1)
    model.save_pretrained(path)
    return path
