"""What we read of a config of ``transformers``, whose fields differ from family to family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSettings:
    """The sizes of a model, and what its family says of how it divides: nothing, or names and styles."""

    vocab_size: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_seq_len: int
    window: int | None
    top_k: int
    has_router_loss: bool
    router_jitter: float
    tensor_plan: Mapping[str, str]
    pipeline_plan: Mapping[str, Any]  # Any: names of arguments, which nobody here reads

    @classmethod
    def of(cls, source: Any) -> HfSettings:  # Any: a PretrainedConfig
        """Read the config of a text model."""
        num_heads: int = source.num_attention_heads
        return cls(
            vocab_size=source.vocab_size,
            hidden_size=source.hidden_size,
            num_heads=num_heads,
            num_kv_heads=_of(source, "num_key_value_heads", num_heads),
            head_dim=_of(source, "head_dim", source.hidden_size // num_heads),
            max_seq_len=source.max_position_embeddings,
            window=_of(source, "sliding_window", None),
            top_k=_of(source, "num_experts_per_tok", 1),
            has_router_loss=_of(source, "output_router_logits", default=False),
            router_jitter=_of(source, "router_jitter_noise", 0.0),
            tensor_plan=_of(source, "base_model_tp_plan", {}),
            pipeline_plan=_of(source, "base_model_pp_plan", {}),
        )


def _of(source: Any, name: str, default: Any) -> Any:  # Any: fields are of any kind
    value = getattr(source, name, None)
    return default if value is None else value
