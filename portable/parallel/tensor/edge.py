"""The edge of a model whose tokens are divided: its caller passes and gets whole rows, of any length.

Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.errors import CapabilityError, ShapeError
from portable.model.moe.layer import Moe
from portable.parallel.mesh import Mesh
from portable.parallel.shard_plan import ShardPlan
from portable.parallel.tensor import transfer
from portable.parallel.tensor.region import AXIS, TIME


class Edge:
    """Hooks around a model, or a stage of one, under sequence parallelism.

    Tokens that fill rows up stand behind all others, where a causal model's tokens never see them; they are
    cut off again. Hidden states that are the model's result are made whole, those for the next stage
    stay cut.
    """

    def __init__(self, model: nn.Module, plan: ShardPlan, mesh: Mesh) -> None:
        self.plan = plan
        self.group = mesh.group(AXIS)
        self.dealt = mesh.size("cp") > 1
        self.counting = any(isinstance(module, Moe) for module in model.modules())
        self.signature = inspect.signature(model.forward)
        self.num_tokens = 0
        self.at_end = False
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)
        norm = dict(model.named_modules()).get(plan.norm)
        if norm is not None:
            norm.register_forward_hook(self._after_norm)

    # Any: what models take and return
    def _before(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.at_end = False
        call = self.signature.bind(*args, **kwargs)
        given = call.arguments
        if given.get(self.plan.cache) is not None:
            raise CapabilityError(
                "parallel.enable_sequence_parallel=true divides the tokens of a row, which a cache of keys "
                "and values must see whole; set parallel.enable_sequence_parallel=false to generate"
            )
        tokens = {name: given[name] for name in self.plan.token_inputs if _is_rows(given.get(name))}
        self.num_tokens = next(iter(tokens.values())).shape[TIME]
        padding = -self.num_tokens % self.group.size
        if padding:
            self._check_may_fill(training=model.training)
            for name, rows in tokens.items():
                given[name] = F.pad(rows, (0, padding), value=self.plan.token_inputs[name])
            bounds = given.get(self.plan.segments)
            if bounds is not None:  # the last segment of a row takes what is new
                given[self.plan.segments] = bounds + bounds // self.num_tokens * padding
        return call.args, call.kwargs

    def _after_norm(self, norm: nn.Module, args: tuple[Any, ...], hidden: Tensor) -> None:
        self.at_end = True

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not self.at_end:
            return output
        if not _is_rows(output):
            padded = self.num_tokens + -self.num_tokens % self.group.size
            output = transfer.make_whole(output, self.group, TIME, padded)
        return output.narrow(TIME, 0, self.num_tokens)

    def _check_may_fill(self, *, training: bool) -> None:
        if self.dealt:
            obstacle = "after context parallelism has dealt them out"
        elif self.counting and training:
            obstacle = "where experts count the tokens that they are given"
        else:
            return
        raise ShapeError(
            f"rows of {self.num_tokens} tokens are no multiple of "
            f"parallel.tensor_parallel_degree={self.group.size}, and cannot be filled up {obstacle}; use a "
            "seq_len that is one, or parallel.enable_sequence_parallel=false"
        )


def _is_rows(value: Any) -> bool:  # Any: an argument or a result
    return isinstance(value, Tensor) and value.ndim == 2
