"""Hooks around a model, or a stage of one, that divides what its caller passes and gets whole."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from portable.core.errors import CapabilityError
from portable.parallel.shard_plan import ShardPlan


class ModelHooks(ABC):
    """Calls ``divide`` with the model's arguments by name, and ``make_whole`` with the result of its end.

    Hidden states for the next stage stay as they are. A cache is refused with the reason ``no_cache``.
    """

    no_cache: str

    def __init__(self, model: nn.Module, plan: ShardPlan) -> None:
        self.plan = plan
        self._signature = inspect.signature(model.forward)
        self._at_end = False
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)
        norm = dict(model.named_modules()).get(plan.norm)
        if norm is not None:
            norm.register_forward_hook(self._after_norm)

    @abstractmethod
    def divide(self, given: dict[str, Any], names: list[str], *, training: bool) -> None:  # Any: arguments
        """Replace arguments in place; those of ``names`` hold a value for every token (B, T)."""

    @abstractmethod
    def make_whole(self, output: Tensor) -> Tensor:
        """Return the model's result for all tokens."""

    # Any: what models take and return
    def _before(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._at_end = False
        call = self._signature.bind(*args, **kwargs)
        given = call.arguments
        if given.get(self.plan.cache) is not None:
            raise CapabilityError(self.no_cache)
        names = [name for name in self.plan.token_inputs if is_rows(given.get(name))]
        self.divide(given, names, training=model.training)
        return call.args, call.kwargs

    def _after_norm(self, norm: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> None:
        self._at_end = True

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.make_whole(output) if self._at_end else output


def is_rows(value: Any) -> bool:  # Any: an argument or a result
    """Return whether a value holds one number for every token, (B, T)."""
    return isinstance(value, Tensor) and value.ndim == 2
