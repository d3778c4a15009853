"""The pass and what surrounds a call of the model: tokens are dealt out, results gathered.

Shapes: B rows, T tokens a row, t those of a rank.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from portable.collective.protocol import Group
from portable.core.errors import ConfigError, ShapeError
from portable.core.record import IGNORED
from portable.kernel.registry import KernelSet
from portable.model.attention import AttentionCore
from portable.model.decoder import Decoder
from portable.model.moe.layer import Moe
from portable.model.mtp import shift_targets
from portable.parallel.config import ParallelConfig
from portable.parallel.context.check import ulysses_degree
from portable.parallel.context.order import TokenOrder
from portable.parallel.context.ring import BlockKernels, RingAttention
from portable.parallel.context.slice import AnyBatch, fill_up, slice_batch, stretch_bounds
from portable.parallel.context.ulysses import UlyssesAttention
from portable.parallel.mesh import Mesh
from portable.parallel.objective import Model
from portable.parallel.shard_plan import Role, ShardPlan

AXIS, RING, ULYSSES = "cp", "cp_ring", "cp_ulysses"


class ContextParallel:
    """Deals tokens over axis ``cp``; on an axis of one rank it leaves all as it is.

    Ranks that are neighbours on the axis trade heads for tokens (Ulysses), and a ring joins such groups. A
    group together holds what one rank of a shorter ring would, so neither method knows of the other.

    All ranks of the world must make one together. Source of the union: Fang and Zhao 2024, arXiv:2405.07719.
    """

    def __init__(self, mesh: Mesh, config: ParallelConfig) -> None:
        size, inner = mesh.size(AXIS), ulysses_degree(config)
        mesh.fold(AXIS, (RING, ULYSSES), (size // inner, inner))
        balanced = config.context_parallel_load_balancer == "headtail"
        self.group = mesh.group(AXIS)
        self.order = TokenOrder(size, balanced)
        self._ring, self._ulysses = mesh.group(RING), mesh.group(ULYSSES)
        self._ring_order, self._ulysses_order = (
            TokenOrder(group.size, balanced) for group in (self._ring, self._ulysses)
        )
        # Sequence parallelism divides a rank's tokens further.
        tensor = config.tensor_parallel_degree if config.enable_sequence_parallel else 1
        self._multiple = math.lcm(self.order.num_chunks, size * tensor)
        self._in_stages = mesh.size("pp") > 1
        self._counts_tokens = False

    def apply(self, model: nn.Module, plan: ShardPlan, kernels: KernelSet) -> None:
        """Replace the attention cores of ``model``: ours, and those that ``plan`` names.

        Raises: ConfigError if there is none, unless ``model`` is a pipeline stage: attention would then stay
        within each rank's tokens.
        """
        if self.group.size == 1:
            return
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, AttentionCore) or plan.role(name) is Role.attention_core
        ]
        if not names and not self._in_stages:
            raise ConfigError(
                f"the shard plan names no attention core in this {type(model).__name__}, so its tokens "
                "cannot be dealt out; use parallel.context_parallel_degree=1, or give the plan a rule with "
                "Role.attention_core"
            )
        for name in names:
            holder, _, word = name.rpartition(".")
            core = self._spread(model.get_submodule(name), kernels)
            setattr(model.get_submodule(holder), word, core)
        if isinstance(model, Decoder):
            model.shift_targets = self.shift_targets
        self._counts_tokens |= any(isinstance(module, Moe) for module in model.modules())

    def slice(self, batch: AnyBatch) -> AnyBatch:
        """Return this rank's tokens of a batch; the bounds of segments stay those of all tokens.

        Raises: ShapeError if rows must be filled up and the model counts their tokens, as a mixture of
        experts does in training.
        """
        if self.group.size == 1:
            return batch
        length = batch.input_ids_BT.shape[1]
        if self._counts_tokens and length % self._multiple:
            raise ShapeError(
                f"rows of {length} tokens cannot be dealt evenly to "
                f"parallel.context_parallel_degree={self.group.size}, and a mixture of experts would count "
                f"what fills them up; use rows of a multiple of {self._multiple} tokens"
            )
        return slice_batch(batch, self.order, self.group.rank, self._padded(length))

    def forward(
        self,
        model: Model,
        input_ids_BT: Tensor,
        position_ids_BT: Tensor,
        cu_seqlens: Tensor | None = None,
        targets: Tensor | None = None,
        **settings: Any,  # Any: what else the model takes, e.g. a temperature
    ) -> Tensor:
        """Call ``model`` with this rank's tokens of a batch that every rank of the axis has, and return what
        it gives for all tokens: (B, T, ...).

        Differentiable if every rank computes the same loss from it: each takes the gradient of its tokens, so
        parameters' gradients add up to that of *one* such loss.
        """
        if self.group.size == 1:
            return model(input_ids_BT, position_ids_BT, cu_seqlens, targets=targets, **settings)
        num_rows, length = input_ids_BT.shape
        padded = self._padded(length)

        def cut(tokens: Tensor, fill: int = 0) -> Tensor:
            return self.order.part(fill_up(tokens, padded, fill), self.group.rank)

        if cu_seqlens is not None:
            cu_seqlens = stretch_bounds(cu_seqlens, num_rows, length, padded)
        result = model(
            cut(input_ids_BT),
            cut(position_ids_BT),
            cu_seqlens,
            targets=None if targets is None else cut(targets, IGNORED),
            **settings,
        )
        return _Gather.apply(result, self.order, self.group)[:, :length]

    def shift_targets(self, targets_Bt: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        """Do what the model's own does: the next token of a rank's last may be another's first."""
        whole_BT = self.order.whole(self.group.all_gather(targets_Bt))
        return self.order.part(shift_targets(whole_BT, cu_seqlens), self.group.rank)

    def _padded(self, length: int) -> int:
        return -(-length // self._multiple) * self._multiple

    def _spread(self, core: nn.Module, kernels: KernelSet) -> nn.Module:
        """Return what attends over all ranks as ``core`` does over one.

        Raises: ConfigError for a ring around a core that sees a window only.
        """
        if self._ring.size > 1:
            if isinstance(core, AttentionCore) and core.window is not None:
                raise ConfigError(
                    f"attention with a window of {core.window} tokens does not go round a ring of "
                    f"{self._ring.size} ranks; use parallel.context_parallel_method=ulysses"
                )
            facts = core.facts if isinstance(core, AttentionCore) else {}
            core = RingAttention(self._ring_order, self._ring, BlockKernels.pick(kernels, facts))
        if self._ulysses.size > 1:
            core = UlyssesAttention(core, self._ulysses_order, self._ulysses)
        return core


class _Gather(Function):
    """(B, t, ...) of every rank to (B, T, ...); the gradient of a rank's tokens is its own."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, part: Tensor, order: TokenOrder, group: Group) -> Tensor:
        ctx.order, ctx.rank = order, group.rank
        return order.whole(group.all_gather(part))

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.order.part(grads[0], ctx.rank), None, None
