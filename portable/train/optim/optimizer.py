"""One optimiser object over one or more torch optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch import optim as torch_optim
from torch.distributed.tensor import DTensor

BASE_LR = "base_lr"


class Optimizer:
    """Steps its ``parts`` as one; the schedule scales each parameter group's own learning rate."""

    def __init__(self, parts: Sequence[torch_optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        for group in self.param_groups:
            group[BASE_LR] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # Any: torch's groups mix parameters and numbers
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def set_lr_factor(self, factor: float) -> None:
        """Set each group's learning rate to ``factor`` times its base."""
        for group in self.param_groups:
            group["lr"] = group[BASE_LR] * factor

    def step(self) -> None:
        """Update all parameters from their gradients."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:  # Any: torch's state dicts, by place
        """Return the state of all parts."""
        return {str(place): part.state_dict() for place, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for place, part in enumerate(self.parts):
            part.load_state_dict(state[str(place)])


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, in the same memory; of any other, itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_embedding(module: nn.Module) -> bool:
    """Return whether ``module`` looks rows up instead of multiplying."""
    return isinstance(module, nn.Embedding)


def embedding_names(model: nn.Module) -> set[str]:
    """Return the names of all embedding weights."""
    return {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if is_embedding(module)
        for own, _ in module.named_parameters(recurse=False)
    }


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the named parameters that are to be learnt."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
