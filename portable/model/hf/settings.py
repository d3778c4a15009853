"""What we read of a config of ``transformers``, whose fields differ from family to family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from portable.core.errors import CapabilityError

_REQUIRED = ("vocab_size", "hidden_size", "num_attention_heads")
_LIMITS = ("max_position_embeddings", "max_seq_len")  # families' words for it


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSettings:
    """The sizes of a model, and what its family says of how it divides: nothing, or names and styles.

    ``max_seq_len`` is None where the config sets no limit.
    """

    vocab_size: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_seq_len: int | None
    window: int | None
    top_k: int
    has_router_loss: bool
    router_jitter: float
    tensor_plan: Mapping[str, str]
    pipeline_plan: Mapping[str, Any]  # Any: names of arguments, which nobody here reads

    @classmethod
    def of(cls, source: Any) -> HfSettings:  # Any: a PretrainedConfig
        """Read the config of a text model. Raises: CapabilityError if a size is not there."""
        missing = [name for name in _REQUIRED if _of(source, name, None) is None]
        if missing:
            raise CapabilityError(
                f"the config of this {source.model_type} model has no {', '.join(missing)}; only decoders of "
                "attention layers can be trained, whose configs name them"
            )
        num_heads: int = source.num_attention_heads
        return cls(
            vocab_size=source.vocab_size,
            hidden_size=source.hidden_size,
            num_heads=num_heads,
            num_kv_heads=_of(source, "num_key_value_heads", num_heads),
            head_dim=_of(source, "head_dim", source.hidden_size // num_heads),
            max_seq_len=next((found for name in _LIMITS if (found := _of(source, name, None))), None),
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
