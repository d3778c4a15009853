"""The pass: the experts of every layer are divided over axis ``ep``."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from portable.collective.protocol import Group
from portable.core.errors import ConfigError
from portable.kernel.registry import KernelSet
from portable.model.moe.balance import Sum
from portable.model.moe.layer import Moe
from portable.parallel.config import ParallelConfig
from portable.parallel.expert.check import check_expert
from portable.parallel.expert.dispatch import Dispatch
from portable.parallel.mesh import Mesh
from portable.parallel.placement import EXPERT_PLACEMENT, Cut, Placement
from portable.parallel.shard_plan import Role, ShardPlan
from portable.parallel.tensor.cut import cut_parameter

AXIS = "ep"
_ROLES = (Role.expert_column, Role.expert_row)


def apply_expert_parallel(
    model: nn.Module,
    plan: ShardPlan,
    mesh: Mesh,
    kernels: KernelSet,
    config: ParallelConfig,
    placements: MutableMapping[str, Placement],
) -> None:
    """Leave this rank its own experts of every layer, and let tokens travel to them.

    Call it whatever the degree: where other axes divide rows, counts that balance the load must be added up.
    A module of experts has parameters (E, ...) and is called as ``Experts`` says. It computes as ever, on the
    rows that arrive, so it must take its number of experts from its parameters. Routers and shared experts
    stay as they are. Raises: ConfigError if the experts cannot be divided so.
    """
    _count_whole_rows(model, mesh)
    group = mesh.group(AXIS)
    if group.size == 1:
        return
    for name, module in model.named_modules():
        own = dict(module.named_parameters(prefix=name, recurse=False))
        if not any(plan.role(parameter) in _ROLES for parameter in own):
            continue
        num_experts = _num_experts(own, plan)
        check_expert(config, num_experts)
        for parameter in own:
            cut_parameter(model, parameter, (Cut(0, AXIS),), mesh, placements)
            placements[parameter] = replace(placements[parameter], **EXPERT_PLACEMENT)
        module.forward = partial(Dispatch(group, num_experts, kernels), module.forward)


def _num_experts(parameters: dict[str, nn.Parameter], plan: ShardPlan) -> int:
    """Return the first dim that all have. Raises: ConfigError if they cannot all belong to experts."""
    for name in parameters:
        if plan.role(name) not in _ROLES:
            raise ConfigError(
                f"the shard plan gives '{name}' no role, but others of its module belong to experts; add a "
                "rule with Role.expert_column or Role.expert_row"
            )
    sizes = {name: parameter.shape[0] for name, parameter in parameters.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"experts are divided along their parameters' first dims, which are {sizes}; they must be equal"
        )
    return next(iter(sizes.values()))


def _count_whole_rows(model: nn.Module, mesh: Mesh) -> None:
    """Let the loss that balances a sequence see what all of its tokens chose, where ``cp`` divides them."""
    if mesh.size("cp") == 1:
        return
    for module in model.modules():
        if isinstance(module, Moe):
            module.sum_counts = partial(_sum, module.sum_counts, mesh.group("cp"))


def _sum(before: Sum, group: Group, counts: Tensor) -> Tensor:
    return group.all_reduce(before(counts))
