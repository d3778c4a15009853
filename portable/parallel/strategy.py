"""What a training strategy must do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class Strategy(Protocol):
    """Wraps a model so that many devices train it as one. Gradients that reach the optimiser are those of
    ``sum over ranks of loss / size``: wrappers average, and the trainer's normalisation counts on it."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def needs_peers(self) -> bool:
        """Whether it only spreads a model over processes, so that one process is better off without it."""
        ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call in training; the model's own parameters may become sharded in place."""
        ...

    def accumulate(self, wrapped: nn.Module, *, last: bool) -> None:
        """Say whether the next backward is the last of this optimiser step, so that gradients travel once."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass."""
        ...

    def clip_grad_norm(self, model: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients to a global norm of at most ``max_norm``; return the norm before."""
        ...

    def full_state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return unsharded weights on the host; every rank must call it."""
        ...

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was really set up, for the run's record."""
        ...
