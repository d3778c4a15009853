"""The shape of a decoder."""

from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError


class RopeScaling(Enum):
    """How rotary frequencies are stretched for long contexts."""

    none = "none"
    linear = "linear"
    llama3 = "llama3"


@dataclass(kw_only=True, slots=True)
class RopeConfig:
    """Rotary position embedding. The four last fields are only read by the scalings that need them."""

    theta: float = 10_000.0
    scaling: RopeScaling = RopeScaling.none
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A decoder with RMSNorm, RoPE, grouped-query attention and SwiGLU. ``qk_norm`` makes it a Qwen3, else a
    Llama."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_layers: int = 6
    num_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 32
    max_seq_len: int = 512
    rms_norm_eps: float = 1e-6
    tie_embeddings: bool = True
    qk_norm: bool = True
    init_std: float = 0.02
    rope: RopeConfig = field(default_factory=RopeConfig)

    def __post_init__(self) -> None:
        counts = {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "max_seq_len": self.max_seq_len,
        }
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"model.{name}={value}; use a positive number")
        if self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}; "
                f"use one of {divisors}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model.head_dim={self.head_dim} is odd; rotary embedding needs an even one")
