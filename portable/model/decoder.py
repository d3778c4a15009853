"""A decoder-only transformer: Llama, Qwen2, Qwen3, Mixtral, Qwen3-MoE, DeepSeek-V3, by its config.

Shapes: B rows, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from portable.core.errors import ShapeError
from portable.kernel.registry import KernelSet
from portable.model.block import Block
from portable.model.cache import KvCache
from portable.model.config import ModelConfig, MtpConfig
from portable.model.head import HeadedModel
from portable.model.mtp import MtpDepth, shift_targets
from portable.model.norm import RmsNorm
from portable.model.rope import RotaryTable


class Decoder(HeadedModel):
    """embed, blocks, norm, head. Kernels are picked here, once.

    Wrappers (data parallel, sharding) hook ``forward`` only, so training goes through it to the very
    log-probabilities: the head's weight may be whole only inside.

    A pipeline stage is a decoder with only some of the blocks. Unless it is ``first`` it takes hidden states
    in place of ids, and unless it is ``last`` it returns what the blocks did; what it does not use may be
    None. The last stage keeps ``embed`` if its head is tied, or for multi-token prediction.

    In training, losses beside the main one (experts' balance, multi-token prediction) hang on hidden states,
    see ``auxiliary``.
    """

    embed: nn.Embedding | None
    norm: RmsNorm | None
    head: nn.Linear | None

    def __init__(self, config: ModelConfig, kernels: KernelSet) -> None:
        super().__init__(kernels, config.vocab_size)
        self.config = config
        self.first = self.last = True
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = self._layers(Block, kernels, 0, config.num_layers)
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.head = (
            None if config.tie_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.mtp = self._layers(
            MtpDepth, kernels, config.num_layers, config.mtp.num_layers if config.mtp else 0
        )
        interleave = config.mla is not None and config.mla.rope_interleave
        self._rotary = RotaryTable(config.rotary_dim, config.rope, interleave=interleave)
        self.shift_targets: Callable[[Tensor, Tensor | None], Tensor] = shift_targets

    def forward(
        self,
        inputs: Tensor,
        position_ids_BT: Tensor,
        cu_seqlens: Tensor | None = None,
        targets: Tensor | None = None,
        temperature: float = 1.0,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Return hidden_BTD after the final norm, or with ``targets`` (B, T) their log-probabilities (B, T),
        float32.

        ``inputs`` are ids (B, T), or the hidden states (B, T, D) of the stage before. ``cu_seqlens`` (S + 1,)
        bounds the segments over the flattened tokens; None means each row is one. Positions only set the
        rotation: they never decide who sees whom. With a ``cache``, the cache attends.

        Raises: ShapeError if positions or targets have another shape than the ids.
        """
        for name, ids in (("position_ids", position_ids_BT), ("targets", targets)):
            # Hidden states of a stage before may be this rank's tokens only.
            if ids is not None and inputs.ndim == 2 and ids.shape != inputs.shape:
                raise ShapeError(
                    f"decoder: {name} have shape {tuple(ids.shape)}, input_ids {tuple(inputs.shape)}; "
                    "they need one shape"
                )
        x_BTD = inputs if self.embed is None or not self.first else self.embed(inputs)
        rotary = self._rotary(position_ids_BT)
        for block in self.blocks.values():
            x_BTD = block(x_BTD, rotary, cu_seqlens, cache)
        if self.norm is None or not self.last:
            return x_BTD
        hidden_BTD = self.norm(x_BTD)
        if targets is None:
            return hidden_BTD
        if self.config.mtp is not None and self._learns:
            hidden_BTD = self._predict_further(self.config.mtp, hidden_BTD, rotary, cu_seqlens, targets)
        return self.token_log_probs(hidden_BTD, targets, temperature)

    @property
    def head_weight_VD(self) -> Tensor:  # noqa: N802 - the suffix is the shape
        """The output matrix: the embedding's own where they are tied."""
        matrix = self.head if self.head is not None else self.embed
        if matrix is None:
            raise ShapeError("this pipeline stage has no head; ask the last one")
        return matrix.weight

    def _layers(
        self, kind: type[Block] | type[MtpDepth], kernels: KernelSet, first: int, count: int
    ) -> nn.ModuleDict:
        return nn.ModuleDict(
            {str(index): kind(self.config, kernels, first + index, self.auxiliary) for index in range(count)}
        )

    def _predict_further(
        self,
        config: MtpConfig,
        hidden_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        cu_seqlens: Tensor | None,
        targets_BT: Tensor,
    ) -> Tensor:
        """Hang on the hidden states the losses of the depths; depth k predicts k tokens beyond the target.

        A token that is no target (``IGNORED``) is read as token 0: meant for texts that are learnt whole.
        """
        if self.embed is None:
            raise ShapeError("multi-token prediction reads the next tokens; keep embed on the last stage")
        x_BTD, loss = hidden_BTD, hidden_BTD.new_zeros((), dtype=torch.float32)
        for depth in self.mtp.values():
            x_BTD = depth(x_BTD, self.embed(targets_BT.clamp(min=0)), rotary, cu_seqlens)
            targets_BT = self.shift_targets(targets_BT, cu_seqlens)
            flat = self.to_head(x_BTD).flatten(0, -2), self.head_weight_VD, targets_BT.flatten()
            loss = loss - self.log_probs(*flat, temperature=1.0).sum()
        return self.auxiliary.attach(hidden_BTD, "mtp_loss", config.loss_coef / config.num_layers * loss)
