"""Grouped-query attention. Shapes: B rows, T tokens, D hidden, N query heads, K key-value heads, H
head_dim."""

from typing import Any

from torch import Tensor, nn

from portable.kernel.registry import KernelSet
from portable.model.cache import KvCache
from portable.model.config import ModelConfig
from portable.model.norm import RmsNorm


class AttentionCore(nn.Module):
    """Causal softmax attention between the projections: what context parallelism replaces.

    With a ``window`` a token sees only those less than so many positions behind.
    """

    def __init__(
        self,
        kernels: KernelSet,
        *,
        head_dim: int,
        num_heads: int,
        num_kv_heads: int,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.facts: dict[str, Any] = {
            "head_dim": head_dim,
            "num_heads": num_heads,
            "num_kv_heads": num_kv_heads,
        }
        self._settings: dict[str, Any] = {"causal": True} | ({"window": window} if window else {})
        self._attention = kernels.pick("attention", **self.facts, **self._settings)

    def forward(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Return (B, T, N, H). ``cu_seqlens`` bounds the segments over the flattened tokens."""
        return self._attention(q_BTNH, k_BTKH, v_BTKH, cu_seqlens=cu_seqlens, **self._settings)


class Attention(nn.Module):
    """q, k, v = x Wq, x Wk, x Wv; norm of each q and k head (Qwen3); rotation by position; softmax mixing;
    Wo.

    Source: Ainslie et al. 2023, arXiv:2305.13245; the head norms: Dehghani et al. 2023, arXiv:2302.05442.
    """

    def __init__(self, config: ModelConfig, kernels: KernelSet, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = (
            RmsNorm(config.head_dim, config.rms_norm_eps, kernels) if config.qk_norm else nn.Identity()
        )
        self.k_norm = (
            RmsNorm(config.head_dim, config.rms_norm_eps, kernels) if config.qk_norm else nn.Identity()
        )
        self._rope = kernels.pick("rope", "half", head_dim=config.head_dim, rotary_dim=config.head_dim)
        self.core = AttentionCore(
            kernels,
            head_dim=config.head_dim,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
        )

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cu_seqlens: Tensor | None,
        cache: KvCache | None,
    ) -> Tensor:
        """Return the mixed tokens, (B, T, D). With a cache, the cache attends."""
        heads = (-1, self.head_dim)
        q_BTNH = self.q_norm(self.q(x_BTD).unflatten(-1, heads))
        k_BTKH = self.k_norm(self.k(x_BTD).unflatten(-1, heads))
        v_BTKH = self.v(x_BTD).unflatten(-1, heads)
        q_BTNH, k_BTKH = self._rope(q_BTNH, k_BTKH, *rotary)
        if cache is None:
            out_BTNH = self.core(q_BTNH, k_BTKH, v_BTKH, cu_seqlens)
        else:
            out_BTNH = cache.attend(self.layer, q_BTNH, k_BTKH, v_BTKH)
        return self.o(out_BTNH.flatten(-2))
