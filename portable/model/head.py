"""The end of every language model: from hidden states to log-probabilities.

Shapes: B rows, T tokens, N tokens of all rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.kernel.entry import Kernel
from portable.kernel.registry import KernelSet
from portable.model.auxiliary import Auxiliary
from portable.model.z_loss import target_logits, z_loss


class HeadedModel(nn.Module, ABC):
    """A model that ends in a matrix; its log-probabilities are found without keeping logits.

    What divides the matrix over ranks replaces ``log_probs``, ``target_logits``, ``logits`` and ``to_head``,
    which brings hidden states to the head where ranks hold them in parts.
    In training ``z_loss_coef`` times the square of the head's log-normaliser is one of the losses that hang
    on hidden states, see ``auxiliary``.
    """

    def __init__(self, kernels: KernelSet, vocab_size: int) -> None:
        super().__init__()
        self.auxiliary = Auxiliary()
        self.z_loss_coef = 0.0
        self.log_probs: Kernel = kernels.pick("token_log_probs", vocab_size=vocab_size)
        self.target_logits: Kernel = target_logits
        self.to_head: Callable[[Tensor], Tensor] = _as_they_are

    @property
    @abstractmethod
    def head_weight_VD(self) -> Tensor:  # noqa: N802 - the suffix is the shape
        """The output matrix."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (..., V) for hidden (..., D), in its number format."""
        return F.linear(hidden, self.head_weight_VD)

    def token_log_probs(self, hidden_BTD: Tensor, targets_BT: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log p(target) for each hidden state, (B, T), float32, without keeping logits."""
        hidden_ND, weight_VD = self.to_head(hidden_BTD).flatten(0, -2), self.head_weight_VD
        targets_N = targets_BT.flatten()
        log_probs_N = self.log_probs(hidden_ND, weight_VD, targets_N, temperature=temperature)
        if self.z_loss_coef and self._learns:
            logits_N = self.target_logits(hidden_ND, weight_VD, targets_N) / temperature
            loss = self.z_loss_coef * z_loss(logits_N, log_probs_N, targets_N)
            log_probs_N = self.auxiliary.attach(log_probs_N, "z_loss", loss)
        return log_probs_N.view(targets_BT.shape)

    @property
    def _learns(self) -> bool:
        return self.training and torch.is_grad_enabled()


def _as_they_are(hidden_BTD: Tensor) -> Tensor:
    return hidden_BTD
