"""What is minimised: the only thing in which pretraining, SFT, preference and RL updates differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from portable.core.record import Batch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossSum:
    """A loss *summed* over its terms, and further sums to report.

    The trainer alone divides, by the global number of terms.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


Model = Callable[..., "Tensor"]
"""Maps token ids, positions, segment bounds and targets to log-probabilities, as a decoder does."""


class Objective(Protocol):
    """Maps a model and a micro-batch to the summed loss over ``batch.num_terms`` terms."""

    def __call__(self, model: Model, batch: Batch) -> LossSum:
        """Compute it; differentiable in the model's parameters."""
        ...
