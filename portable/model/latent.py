"""Multi-head latent attention.

Shapes: B rows, T tokens, D hidden, N heads, C latent, H dims of a query, V dims of a value.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.kernel.registry import KernelSet
from portable.model.attention import AttentionCore
from portable.model.cache import KvCache
from portable.model.config import MlaConfig, ModelConfig
from portable.model.norm import RmsNorm
from portable.model.rope import softmax_stretch

_LATENT_EPS = 1e-6  # DeepSeek's norms of the latents, whatever the model's own


class LatentAttention(nn.Module):
    """Keys and values of all heads come from one latent a token; a part of each key turns and is shared.

    c = norm(x W_c); k = [c W_k, rope(x W_r)], v = c W_v; queries likewise, or straight from x. ``kv_down``
    holds W_c and W_r, ``kv_up`` W_k and W_v.

    The core sees plain heads: N query and N key heads of H dims, values padded with zeros to H. A cache so
    holds expanded keys and values, not the latent.
    Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1 and appendix C.
    """

    def __init__(self, config: ModelConfig, mla: MlaConfig, kernels: KernelSet, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.mla = mla
        self.scale = softmax_stretch(config.rope)
        hidden, heads = config.hidden_size, config.num_heads
        rank, queries = mla.q_lora_rank, heads * mla.qk_head_dim
        if rank:
            self.q_down = nn.Linear(hidden, rank, bias=False)
            self.q_down_norm = RmsNorm(rank, _LATENT_EPS, kernels)
            self.q_up = nn.Linear(rank, queries, bias=False)
        else:
            self.q = nn.Linear(hidden, queries, bias=False)
        self.kv_down = nn.Linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=False)
        self.kv_down_norm = RmsNorm(mla.kv_lora_rank, _LATENT_EPS, kernels)
        self.kv_up = nn.Linear(mla.kv_lora_rank, heads * (mla.qk_nope_head_dim + mla.v_head_dim), bias=False)
        self.o = nn.Linear(heads * mla.v_head_dim, hidden, bias=False)
        turning = "interleave" if mla.rope_interleave else "half"
        self._rope = kernels.pick(
            "rope", turning, head_dim=mla.qk_rope_head_dim, rotary_dim=mla.qk_rope_head_dim
        )
        self.core = AttentionCore(kernels, head_dim=mla.qk_head_dim, num_heads=heads, num_kv_heads=heads)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cu_seqlens: Tensor | None,
        cache: KvCache | None,
    ) -> Tensor:
        """Return the mixed tokens, (B, T, D). With a cache, the cache attends."""
        mla = self.mla
        q_BTNH = self._queries(x_BTD).unflatten(-1, (-1, mla.qk_head_dim))
        q_pass, q_turn = q_BTNH.split([mla.qk_nope_head_dim, mla.qk_rope_head_dim], -1)
        latent_BTC, k_turn = self.kv_down(x_BTD).split([mla.kv_lora_rank, mla.qk_rope_head_dim], -1)
        kv = self.kv_up(self.kv_down_norm(latent_BTC))
        kv = kv.unflatten(-1, (-1, mla.qk_nope_head_dim + mla.v_head_dim))
        k_pass, v_BTNV = kv.split([mla.qk_nope_head_dim, mla.v_head_dim], -1)
        q_turn, k_turn = self._rope(q_turn, k_turn.unsqueeze(2), *rotary)
        q_BTNH = torch.cat((q_pass, q_turn), -1)
        k_BTNH = torch.cat((k_pass, k_turn.expand(*k_pass.shape[:-1], -1)), -1)
        v_BTNH = F.pad(v_BTNV, (0, mla.qk_head_dim - mla.v_head_dim))
        if self.scale != 1.0:
            q_BTNH = q_BTNH * self.scale
        if cache is None:
            out_BTNH = self.core(q_BTNH, k_BTNH, v_BTNH, cu_seqlens)
        else:
            out_BTNH = cache.attend(self.layer, q_BTNH, k_BTNH, v_BTNH)
        return self.o(out_BTNH[..., : mla.v_head_dim].flatten(-2))

    def _queries(self, x_BTD: Tensor) -> Tensor:
        return self.q_up(self.q_down_norm(self.q_down(x_BTD))) if self.mla.q_lora_rank else self.q(x_BTD)
