"""What every module computes in a step, forward and backward, by micro-batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from portable.parallel.placement import original_name
from portable.parallel.shard_plan import DECODER
from portable.trace.arguments import map_tensors

ROOT = "(model)"


@dataclass(frozen=True, slots=True)
class Key:
    """A result of a module for a micro-batch, counted from 0; ``path`` names a tensor of several, and a later
    call of several.
    """

    module: str
    path: str
    micro_batch: int


@dataclass(slots=True)
class Watch:
    """Keeps outputs and the gradients at them, in the order in which they were computed."""

    outputs: dict[Key, Tensor] = field(default_factory=dict)
    gradients: dict[Key, Tensor] = field(default_factory=dict)

    def follow(self, parts: Sequence[nn.Module]) -> None:
        """Hook all modules, behind what passes have hooked; a part is called once for each micro-batch."""
        for part in parts:
            calls = _Calls()
            part.register_forward_pre_hook(calls.begin)
            for name, module in part.named_modules():
                name = original_name(name) or ROOT
                if name == ROOT and not getattr(part, "last", True):
                    continue  # what a stage hands on is what its last block made
                module.register_forward_hook(self._hook(name, calls))

    def _hook(self, name: str, calls: _Calls) -> Any:  # Any: torch's type of hooks
        def left(_: nn.Module, _args: Any, output: Any) -> Any:
            if not _goes_forward():
                return None
            calls.of[name] += 1
            again = f"#{calls.of[name]}" if calls.of[name] > 1 else ""
            return map_tensors(
                output, lambda path, tensor: self._keep(Key(name, path + again, calls.micro_batch), tensor)
            )

        return left

    def _keep(self, key: Key, tensor: Tensor) -> Tensor:
        """Return a view, whose gradient is that of uses outside: a module may use its result itself, too."""
        self.outputs[key] = tensor.detach().clone()
        if not tensor.requires_grad:
            return tensor

        def reached(gradient: Tensor) -> None:
            self.gradients[key] = gradient.detach().clone()

        view = tensor.view_as(tensor)
        view.register_hook(reached)
        return view


@dataclass(slots=True)
class _Calls:
    """The micro-batch that a part computes, and how often it has called each module for it."""

    micro_batch: int = -1
    of: Counter[str] = field(default_factory=Counter)

    def begin(self, part: nn.Module, _args: Any) -> None:  # Any: torch's type of hooks
        if _goes_forward():
            self.micro_batch += 1
            self.of.clear()
            if not getattr(part, "first", True):
                self.of[DECODER.embed] = 1  # another stage has looked up the ids


def _goes_forward() -> bool:
    """Return whether this is no evaluation, and no recomputation during a backward pass."""
    in_backward = torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]  # no public one
    return torch.is_grad_enabled() and not in_backward
