"""One optimiser object over one or more torch optimisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch import optim as torch_optim

from portable.core.errors import ConfigError
from portable.parallel.gradient import local

BASE_LR = "base_lr"


@runtime_checkable
class Prepares(Protocol):
    """A torch optimiser that can make its state before the first step."""

    def prepare(self, parameter: nn.Parameter) -> None:
        """Give ``parameter`` the state that its first step would find."""
        ...


@runtime_checkable
class Exports(Protocol):
    """A torch optimiser whose state has a form of its own, which no other layout could read."""

    def export_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the state of ``parameter`` as tensors that lie as it does, or are scalars."""
        ...

    def import_state(self, parameter: nn.Parameter, values: dict[str, Tensor]) -> None:
        """Take values of ``export_state``'s form."""
        ...


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

    def prepare(self) -> None:
        """Give every parameter its state, so that a checkpoint has the same keys at every step.

        Raises: ConfigError for a part that cannot.
        """
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    if part.state.get(parameter):
                        continue
                    if not isinstance(part, Prepares):
                        raise ConfigError(
                            f"the optimiser {type(part).__name__} has no method prepare(parameter), so its "
                            "state cannot be saved before it has stepped; add one, or use optim=adamw"
                        )
                    part.prepare(parameter)

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint keeps of a parameter's state."""
        part = self._part_of(parameter)
        if isinstance(part, Exports):
            return part.export_state(parameter)
        return {key: local(value) for key, value in part.state[parameter].items()}

    def load_state_of(self, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
        """Copy what ``state_of`` returned, here or in another layout, into the state."""
        part = self._part_of(parameter)
        if isinstance(part, Exports):
            part.import_state(parameter, state)
            return
        own = part.state[parameter]
        for key, value in state.items():
            local(own[key]).copy_(value)

    def _part_of(self, parameter: nn.Parameter) -> torch_optim.Optimizer:
        for part in self.parts:
            if parameter in part.state:
                return part
        raise ConfigError("a parameter has no optimiser state; give it to the optimiser that trains it")
