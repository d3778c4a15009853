"""The pass: blocks keep less for the backward pass than it needs, which computes the rest anew.

Whatever is kept, the numbers are the same bits: recomputation runs the same operators on the same inputs with
the same random state, and collectives inside a block go out again, in one order on all ranks.
Source: Chen et al. 2016, arXiv:1604.06174; keeping some operators' results: Korthikanti et al. 2022,
arXiv:2205.05198, section 5.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from portable.parallel.blocks import named_blocks
from portable.parallel.config import RecomputeConfig
from portable.parallel.context.ring import RingAttention
from portable.parallel.memory.budget import Plan, Recorder
from portable.parallel.memory.work import Op, is_dear, num_bytes, tensors_in

logger = logging.getLogger(__name__)
Forward = Callable[..., Any]  # Any: whatever a block takes and returns
Contexts = Callable[[], Any]  # Any: torch's pair of contexts
_Kind = tuple[type[nn.Module], tuple[torch.Size, ...]]


def apply_recomputation(part: nn.Module, config: RecomputeConfig) -> list[str]:
    """Let blocks of ``part`` recompute as ``config`` says; return their names.

    Blocks are called as before. Without gradients nothing is kept, so nothing changes either.
    """
    if config.mode == "none":
        return []
    blocks = list(named_blocks(part))[:: config.every][: config.num_layers or None]
    recompute = _Recompute(config)
    for _, block in blocks:
        for module in block.modules():
            if isinstance(module, RingAttention):
                module.forward = partial(recompute.closed, module.forward)
        block.forward = partial(recompute.run, block, block.forward)
    return [name for name, _ in blocks]


class _Recompute:
    """What the blocks of a part share: the mode, and plans by kind of block."""

    def __init__(self, config: RecomputeConfig) -> None:
        self._config = config
        self._plans: dict[_Kind, Plan] = {}
        self._is_closed = False

    def run(self, block: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``, a block's own, keeping what the mode says."""
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if self._config.mode == "full":
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        if self._config.mode == "selective":
            return self._keep_some(self._keep_dear, forward, *args, **kwargs)
        return self._run_by_plan(block, forward, *args, **kwargs)

    def closed(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Call ``forward``, inside of which no result is kept.

        A ring changes the first block's result in place, and results of all its blocks would be many times
        the size of the one that they make.
        """
        before, self._is_closed = self._is_closed, True
        try:
            return forward(*args, **kwargs)
        finally:
            self._is_closed = before

    def _keep_some(
        self, policy: Callable[..., CheckpointPolicy], forward: Forward, *args: Any, **kwargs: Any
    ) -> Any:
        contexts: Contexts = partial(create_selective_checkpoint_contexts, policy)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    def _keep_dear(self, _: Any, op: Op, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        """Keep products of matrices and attention, whose work grows faster than their results."""
        return _policy(keep=not self._is_closed and is_dear(op))

    def _run_by_plan(self, block: nn.Module, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """The first block of a kind runs as it is and is watched; the plan depends on its shapes only, and on
        all ranks it is made in the same call, for collectives are recomputed with the rest.
        """
        kind = type(block), tuple(parameter.shape for parameter in block.parameters())
        plan = self._plans.get(kind)
        if plan is None:
            with Recorder(list(block.parameters()), lambda: not self._is_closed) as recorder:
                out = forward(*args, **kwargs)
            entering = [tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad]
            plan = self._plans[kind] = recorder.plan(self._config.budget, num_bytes(entering))
            _tell(block, plan)
            return out
        if plan.keeps_all:
            return forward(*args, **kwargs)
        return self._keep_some(_ByPlan(plan), forward, *args, **kwargs)


class _ByPlan:
    """Keeps the results of a plan's calls; made anew for every pass through a block."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts: Counter[str] = Counter()

    def __call__(self, _: Any, op: Op, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        call = str(op), self._counts[str(op)]
        self._counts[str(op)] += 1
        return _policy(keep=call in self._plan.kept)


def _policy(*, keep: bool) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _tell(block: nn.Module, plan: Plan) -> None:
    logger.info(
        "parallel.recompute: a %s keeps %.1f MiB of %.1f MiB for the backward pass, and computes %.0f%% of "
        "its forward pass anew",
        *(type(block).__name__, plan.kept_bytes / 2**20, plan.whole_bytes / 2**20, 100 * plan.extra),
    )
