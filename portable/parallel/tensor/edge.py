"""The edge of a model whose tokens are divided: its caller passes and gets whole rows, of any length.

Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.model.moe.layer import Moe
from portable.parallel.mesh import Mesh
from portable.parallel.shard_plan import ShardPlan
from portable.parallel.tensor import transfer
from portable.parallel.tensor.hooks import ModelHooks, is_rows
from portable.parallel.tensor.region import AXIS, TIME


class Edge(ModelHooks):
    """Under sequence parallelism.

    Tokens that fill rows up stand behind all others, where a causal model's tokens never see them; they are
    cut off again. Hidden states that are the model's result are made whole, those for the next stage
    stay cut.
    """

    no_cache = (
        "parallel.enable_sequence_parallel=true divides the tokens of a row, which a cache of keys and "
        "values must see whole; set parallel.enable_sequence_parallel=false to generate"
    )

    def __init__(self, model: nn.Module, plan: ShardPlan, mesh: Mesh) -> None:
        super().__init__(model, plan)
        self.group = mesh.group(AXIS)
        self.dealt = mesh.size("cp") > 1
        self.counting = any(isinstance(module, Moe) for module in model.modules())
        self.num_tokens = 0

    def divide(self, given: dict[str, Any], names: list[str], *, training: bool) -> None:  # Any: arguments
        """Fill rows up to a multiple of the ranks."""
        self.num_tokens = given[names[0]].shape[TIME]
        padding = -self.num_tokens % self.group.size
        if not padding:
            return
        self._check_may_fill(training=training)
        for name in names:
            given[name] = F.pad(given[name], (0, padding), value=self.plan.token_inputs[name])
        bounds = given.get(self.plan.segments)
        if bounds is not None:  # the last segment of a row takes what is new
            given[self.plan.segments] = bounds + bounds // self.num_tokens * padding

    def make_whole(self, output: Tensor) -> Tensor:
        """Gather hidden states; cut off what filled rows up."""
        if not is_rows(output):
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
