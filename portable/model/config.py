"""The shape of a decoder."""

from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError


class RopeScaling(Enum):
    """How rotary frequencies are stretched for long contexts."""

    none = "none"
    linear = "linear"
    llama3 = "llama3"
    yarn = "yarn"


@dataclass(kw_only=True, slots=True)
class RopeConfig:
    """Rotary position embedding. Below ``factor``, each scaling reads the fields that it needs.

    ``attention_factor``, ``mscale`` and ``mscale_all_dim`` are YaRN's; 0 means not given.
    """

    theta: float = 10_000.0
    scaling: RopeScaling = RopeScaling.none
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0


class Gate(Enum):
    """What turns router logits into weights."""

    softmax = "softmax"
    sigmoid = "sigmoid"


@dataclass(kw_only=True, slots=True)
class MoeConfig:
    """A mixture of experts in place of the feed-forward layer, from layer ``first_dense_layers`` on.

    A token meets ``top_k`` of ``num_experts`` experts of ``intermediate_size``, and always the shared ones.
    ``num_groups`` divides the experts into equal runs; a token's experts come from its ``top_k_groups`` best
    (DeepSeek-V3 bounds by that the nodes a token travels to). ``renormalize`` makes a token's weights sum to
    1; ``routed_scale`` multiplies them.

    Three ways to spread the load, 0 is off: ``aux_loss_coef`` (a loss over each sequence),
    ``bias_update_rate`` (a bias on the choice that is moved after every step, without a loss), and
    ``router_z_loss_coef``, which keeps router logits small.
    """

    num_experts: int = 8
    top_k: int = 2
    intermediate_size: int = 704
    num_shared_experts: int = 0
    first_dense_layers: int = 0
    gate: Gate = Gate.softmax
    renormalize: bool = True
    routed_scale: float = 1.0
    num_groups: int = 1
    top_k_groups: int = 1
    aux_loss_coef: float = 0.0
    bias_update_rate: float = 0.0
    router_z_loss_coef: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(
            "model.moe", self, ("num_experts", "top_k", "intermediate_size", "num_groups", "top_k_groups")
        )
        for name in (
            "num_shared_experts",
            "first_dense_layers",
            "aux_loss_coef",
            "bias_update_rate",
            "router_z_loss_coef",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"model.moe.{name}={getattr(self, name)}; use 0 (off) or a positive number")
        if self.top_k > self.num_experts:
            raise ConfigError(
                f"model.moe.top_k={self.top_k} experts a token, but there are {self.num_experts}; use fewer"
            )
        if self.gate is Gate.softmax and (
            self.bias_update_rate or self.num_groups > 1 or self.routed_scale != 1
        ):
            raise ConfigError(
                "model.moe.gate=softmax has no bias, groups or scale; use gate=sigmoid, or "
                "bias_update_rate=0, num_groups=1 and routed_scale=1"
            )
        self._check_groups()

    def _check_groups(self) -> None:
        if self.num_groups == 1:
            return
        size, left = divmod(self.num_experts, self.num_groups)
        if left or size < 2:  # a group's score is the sum of its two best
            legal = [n for n in range(1, self.num_experts // 2 + 1) if self.num_experts % n == 0]
            raise ConfigError(
                f"model.moe.num_groups={self.num_groups} does not divide num_experts={self.num_experts} into "
                f"groups of two and more; use one of {legal}"
            )
        if self.top_k_groups > self.num_groups or self.top_k_groups * size < self.top_k:
            least = -(-self.top_k // size)
            raise ConfigError(
                f"model.moe.top_k_groups={self.top_k_groups}: of {self.num_groups} groups of {size} experts "
                f"they must hold the top_k={self.top_k} of a token; use {least} to {self.num_groups}"
            )


@dataclass(kw_only=True, slots=True)
class MlaConfig:
    """Multi-head latent attention: keys and values come from a latent of ``kv_lora_rank`` numbers a token.

    A head's queries and keys have ``qk_nope_head_dim`` dims without and ``qk_rope_head_dim`` with rotation,
    the latter's keys shared by all heads. ``q_lora_rank`` is the queries' latent, 0 for none.
    ``rope_interleave``: neighbours turn as pairs, else dim i with dim i + half.
    """

    kv_lora_rank: int = 512
    q_lora_rank: int = 1536
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    rope_interleave: bool = True

    def __post_init__(self) -> None:
        _check_positive(
            "model.mla", self, ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        if self.q_lora_rank < 0:
            raise ConfigError(f"model.mla.q_lora_rank={self.q_lora_rank}; use 0 (none) or a positive number")
        if self.qk_rope_head_dim % 2:
            raise ConfigError(
                f"model.mla.qk_rope_head_dim={self.qk_rope_head_dim} is odd; rotary embedding needs an even "
                "one"
            )
        if self.v_head_dim > self.qk_head_dim:
            raise ConfigError(
                f"model.mla.v_head_dim={self.v_head_dim} is above the {self.qk_head_dim} dims of a query; "
                "use at most that"
            )

    @property
    def qk_head_dim(self) -> int:
        """Dims of a query, with and without rotation."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim


@dataclass(kw_only=True, slots=True)
class MtpConfig:
    """Multi-token prediction: ``num_layers`` further depths, each predicting one token more ahead.

    Their losses add ``loss_coef`` / ``num_layers`` each to the loss in training, and nothing elsewhere.
    """

    num_layers: int = 1
    loss_coef: float = 0.3

    def __post_init__(self) -> None:
        _check_positive("model.mtp", self, ("num_layers", "loss_coef"))


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A decoder with RMSNorm, RoPE, grouped-query attention and SwiGLU.

    Dense: ``qk_norm`` makes it a Qwen3, ``qkv_bias`` a Qwen2, neither a Llama. With ``moe``: Qwen3-MoE or
    Mixtral. With ``moe`` and ``mla``: DeepSeek-V3, ``head_dim`` being that of its queries.
    """

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
    qkv_bias: bool = False
    init_std: float = 0.02
    rope: RopeConfig = field(default_factory=RopeConfig)
    moe: MoeConfig | None = None
    mla: MlaConfig | None = None
    mtp: MtpConfig | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers")
        _check_positive("model", self, (*sizes, "num_heads", "num_kv_heads", "head_dim", "max_seq_len"))
        if self.num_heads % self.num_kv_heads:
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise ConfigError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}; "
                f"use one of {divisors}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"model.head_dim={self.head_dim} is odd; rotary embedding needs an even one")
        if self.mla is not None:
            self._check_mla(self.mla)
        if self.moe is not None and self.moe.first_dense_layers >= self.num_layers:
            raise ConfigError(
                f"model.moe.first_dense_layers={self.moe.first_dense_layers} leaves none of the "
                f"{self.num_layers} layers an expert; use fewer, or moe=null"
            )

    def _check_mla(self, mla: MlaConfig) -> None:
        needs = {
            "head_dim": (self.head_dim, mla.qk_head_dim),
            "num_kv_heads": (self.num_kv_heads, self.num_heads),
            "qk_norm": (self.qk_norm, False),
            "qkv_bias": (self.qkv_bias, False),
        }
        for name, (value, needed) in needs.items():
            if value != needed:
                raise ConfigError(f"model.{name}={value}, but with model.mla it must be {needed}")

    @property
    def rotary_dim(self) -> int:
        """Dims of a head that turn with the position."""
        return self.head_dim if self.mla is None else self.mla.qk_rope_head_dim

    def is_sparse(self, layer: int) -> bool:
        """Whether ``layer`` has experts; from ``num_layers`` on come those of multi-token prediction."""
        return self.moe is not None and layer >= self.moe.first_dense_layers


def _check_positive(where: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ConfigError(f"{where}.{name}={value}; use a positive number")
