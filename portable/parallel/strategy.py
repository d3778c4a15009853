"""What a data strategy must do: let ranks that read different samples train one model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch import optim as torch_optim

    from portable.parallel.placement import ParameterShard, Placements


class StepOptimizer(Protocol):
    """What a strategy needs to know of an optimiser: torch optimisers that step as one."""

    @property
    def parts(self) -> tuple[torch_optim.Optimizer, ...]:
        """The optimisers beneath."""
        ...

    def step(self) -> None:
        """Update all parameters from their gradients."""
        ...

    def zero_grad(self) -> None:
        """Drop all gradients."""
        ...

    def prepare(self) -> None:
        """Give every parameter that has no state yet its (zero) state."""
        ...

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of a parameter's state, this rank's part; it may be a copy."""
        ...

    def load_state_of(self, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
        """Take values of ``state_of``'s form."""
        ...


class Strategy(Protocol):
    """Keeps parameters, gradients and optimiser state for a model whose parts other passes have already cut.

    Gradients that reach the optimiser are *sums* over ranks: the trainer has divided by the number of terms
    of the whole step, and nobody else scales. In order: ``wrap`` and ``attach`` once; then, a step,
    ``accumulate`` and ``backward`` for every micro-batch, ``reduce_gradients``, ``clip_grad_norm``, ``step``.
    """

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def needs_peers(self) -> bool:
        """Whether it only spreads a model over processes, so that one process is better off without it."""
        ...

    @property
    def wraps_meta(self) -> bool:
        """Whether ``wrap`` takes parts on the meta device; they get memory after it then, else before."""
        ...

    @property
    def shards_parameters(self) -> bool:
        """Whether a rank holds only a part of every weight between steps."""
        ...

    @property
    def modules(self) -> list[nn.Module]:
        """What is called in training, one for each part."""
        ...

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Take the parts of the model that this rank holds; their parameters may become sharded in place.

        Raises: CapabilityError if something else than what was asked for has been set up.
        """
        ...

    def shards(self) -> list[ParameterShard]:
        """Return what the optimiser updates and checkpoints hold, in an order that all ranks share."""
        ...

    def holdings(self) -> list[ParameterShard]:
        """Return what makes up the model's weights: ``shards()``, and parameters that are frozen."""
        ...

    def attach(self, optimizer: StepOptimizer) -> None:
        """Take the optimiser over ``shards()`` that the trainer built; an engine may wrap it."""
        ...

    def accumulate(self, *, last: bool) -> None:
        """Say whether the next backward is the last of this optimiser step, so that gradients travel once."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a micro-batch."""
        ...

    def reduce_gradients(self) -> None:
        """After the last backward: let travel what has not, partial sums over other axes included."""
        ...

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale gradients to a norm over the whole model of at most ``max_norm``; return the norm before."""
        ...

    def step(self) -> None:
        """Update from the gradients, drop them, and ``publish``."""
        ...

    def skip(self) -> None:
        """Drop the gradients of a step that overflowed, without an update."""
        ...

    def publish(self) -> None:
        """Bring what the shards hold into the modules that compute, e.g. after they were loaded."""
        ...

    def held(self) -> dict[str, list[Tensor]]:
        """Return what it keeps on the device besides the tensors of ``modules``, ``shards()`` and the
        optimiser, by class: ``parameters``, ``gradients``, ``optimizer``.
        """
        ...

    def state(self) -> dict[str, tuple[Tensor, ParameterShard | None]]:
        """Return what a checkpoint holds: ``model/NAME``, and ``optimizer/NAME/KEY`` of tensors that lie as
        their parameter does, or (with None) are the same on every rank.

        State that is not there before the first step is made, as zeros. No copy is made where none is needed.
        """
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take values of ``state()``'s form, this rank's part of each, and ``publish`` them."""
        ...

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was really set up, for the run's record."""
        ...
