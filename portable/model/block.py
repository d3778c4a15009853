"""One layer of a decoder. Shapes: B rows, T tokens, D hidden."""

from torch import Tensor, nn

from portable.kernel.registry import KernelSet
from portable.model.attention import Attention
from portable.model.auxiliary import Auxiliary
from portable.model.cache import KvCache
from portable.model.config import ModelConfig
from portable.model.latent import LatentAttention
from portable.model.mlp import Mlp
from portable.model.moe.layer import Moe
from portable.model.norm import AddRmsNorm, RmsNorm


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, kernels: KernelSet, layer: int, auxiliary: Auxiliary) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_norm = RmsNorm(size, eps, kernels)
        if config.mla is None:
            self.attention = Attention(config, kernels, layer)
        else:
            self.attention = LatentAttention(config, config.mla, kernels, layer)
        self.post_norm = AddRmsNorm(size, eps, kernels)
        if config.moe is not None and config.is_sparse(layer):
            self.mlp = Moe(size, config.moe, kernels, layer, auxiliary)
        else:
            self.mlp = Mlp(size, config.intermediate_size, kernels)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cu_seqlens: Tensor | None = None,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Return the next hidden states, (B, T, D)."""
        mixed_BTD = self.attention(self.input_norm(x_BTD), rotary, cu_seqlens, cache)
        normed_BTD, x_BTD = self.post_norm(mixed_BTD, x_BTD)
        return x_BTD + self.mlp(normed_BTD)
