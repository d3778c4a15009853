"""A decoder-only transformer of the Llama and Qwen3 kind.

Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.kernel.registry import KernelSet
from portable.model.attention import Attention
from portable.model.cache import KvCache
from portable.model.config import ModelConfig
from portable.model.mlp import Mlp
from portable.model.norm import AddRmsNorm, RmsNorm
from portable.model.rope import RotaryTable


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, kernels: KernelSet, layer: int) -> None:
        super().__init__()
        self.input_norm = RmsNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.attention = Attention(config, kernels, layer)
        self.post_norm = AddRmsNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.mlp = Mlp(config, kernels)

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


class Decoder(nn.Module):
    """embed, blocks, norm, head. Kernels are picked here, once.

    Wrappers (data parallel, sharding) hook ``forward`` only, so training goes through it to the very
    log-probabilities: the head's weight may be whole only inside.
    """

    def __init__(self, config: ModelConfig, kernels: KernelSet) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, kernels, layer) for layer in range(config.num_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.head = (
            None if config.tie_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self._rotary = RotaryTable(config.head_dim, config.rope)
        self._token_log_probs = kernels.pick("token_log_probs", vocab_size=config.vocab_size)

    def forward(
        self,
        input_ids_BT: Tensor,
        position_ids_BT: Tensor,
        cu_seqlens: Tensor | None = None,
        targets: Tensor | None = None,
        temperature: float = 1.0,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Return hidden_BTD after the final norm, or with ``targets`` (B, T) their log-probabilities (B, T),
        float32.

        ``cu_seqlens`` (S + 1,) bounds the segments over the flattened tokens; None means each row is one.
        Positions only set the rotation: they never decide who sees whom. With a ``cache``, the cache attends.

        Raises: ShapeError if positions or targets have another shape than the ids.
        """
        for name, ids in (("position_ids", position_ids_BT), ("targets", targets)):
            if ids is not None and ids.shape != input_ids_BT.shape:
                raise ShapeError(
                    f"decoder: {name} have shape {tuple(ids.shape)}, input_ids {tuple(input_ids_BT.shape)}; "
                    "they need one shape"
                )
        rotary = self._rotary(position_ids_BT)
        x_BTD = self.embed(input_ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary, cu_seqlens, cache)
        hidden_BTD = self.norm(x_BTD)
        return hidden_BTD if targets is None else self.token_log_probs(hidden_BTD, targets, temperature)

    @property
    def head_weight_VD(self) -> Tensor:  # noqa: N802 - the suffix is the shape
        """The output matrix: the embedding's own where they are tied."""
        return self.embed.weight if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., D), in its number format."""
        return F.linear(hidden, self.head_weight_VD)

    def token_log_probs(self, hidden_BTD: Tensor, targets_BT: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log p(target) for each hidden state, (B, T), float32, without keeping logits."""
        flat = self._token_log_probs(
            hidden_BTD.flatten(0, -2), self.head_weight_VD, targets_BT.flatten(), temperature=temperature
        )
        return flat.view(targets_BT.shape)
