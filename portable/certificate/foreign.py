"""The model that is asked for: a shape of ours, or one of transformers, whose config is cut to size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.core.errors import ArtefactError
from portable.model.config import ModelConfig, MoeConfig
from portable.model.hf.settings import HfSettings
from portable.model.weights import read_config
from portable.train.pretrain_config import ModelSource

_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_SMALL_HEAD = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """Sizes, and the config.json of a model of transformers if its code computes."""

    model: ModelConfig
    foreign: Mapping[str, Any] | None = None  # Any: JSON values


def asked_model(model: ModelConfig, path: str, source: ModelSource) -> Asked:
    """Return what pretraining with these settings would train.

    Raises: ArtefactError if ``path`` holds no model.
    """
    if not path:
        return Asked(model)
    if source is not ModelSource.transformers:
        try:
            return Asked(read_config(Path(path)))
        except ArtefactError:
            if source is ModelSource.portable:
                raise
    return _foreign(Path(path))


def resized(foreign: Mapping[str, Any], small: ModelConfig) -> Mapping[str, Any]:  # Any: JSON values
    """Return a config with the sizes of ``small``, where it has a field for them."""
    source = _config_of(foreign)
    sizes: dict[str, int | None] = {
        "vocab_size": small.vocab_size,
        "hidden_size": small.hidden_size,
        "intermediate_size": small.intermediate_size,
        "num_hidden_layers": small.num_layers,
        "num_attention_heads": small.num_heads,
        "num_key_value_heads": small.num_kv_heads,
        "head_dim": _SMALL_HEAD,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),  # of the whole vocabulary
    }
    if getattr(source, "head_dim", None) is None:
        sizes["hidden_size"] = small.num_heads * _SMALL_HEAD
    if small.moe is not None:
        sizes |= dict.fromkeys(_NUM_EXPERTS, small.moe.num_experts)
        sizes |= {
            "num_experts_per_tok": small.moe.top_k,
            "moe_intermediate_size": small.moe.intermediate_size,
        }
    for name, size in sizes.items():
        if hasattr(source, name):
            setattr(source, name, size)
    if getattr(source, "layer_types", None):
        source.layer_types = source.layer_types[: small.num_layers]
    return source.to_dict()


def _foreign(path: Path) -> Asked:
    from transformers import AutoConfig

    try:
        source = AutoConfig.from_pretrained(path, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise ArtefactError(f"transformers cannot read the config of {path}: {error}") from error
    return Asked(_sizes(source), source.to_dict())


def _sizes(source: Any) -> ModelConfig:  # Any: a PretrainedConfig
    settings = HfSettings.of(source.get_text_config())
    inner: int = getattr(source, "intermediate_size", None) or 4 * settings.hidden_size
    experts = next((getattr(source, name) for name in _NUM_EXPERTS if hasattr(source, name)), 0)
    moe = None
    if experts:
        width = getattr(source, "moe_intermediate_size", None) or inner
        moe = MoeConfig(num_experts=experts, top_k=settings.top_k, intermediate_size=width)
    return ModelConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=inner,
        num_layers=source.num_hidden_layers,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_kv_heads,
        head_dim=settings.head_dim,
        max_seq_len=settings.max_seq_len or 2**20,  # a trial's rows are short
        tie_embeddings=source.tie_word_embeddings,
        qk_norm=False,
        moe=moe,
    )


def _config_of(foreign: Mapping[str, Any]) -> Any:  # Any: JSON values in, a PretrainedConfig out
    from transformers import AutoConfig

    return AutoConfig.for_model(**foreign)
