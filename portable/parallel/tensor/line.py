"""Tensor parallelism in one dimension: columns, then rows, with the sum over ranks at the end of a region.

Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3; sequence parallelism: Korthikanti et al. 2022,
arXiv:2205.05198, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial

from torch import Tensor, nn

from portable.collective.protocol import Group
from portable.model.auxiliary import Auxiliary
from portable.model.head import HeadedModel
from portable.model.moe.balance import Sum
from portable.model.moe.layer import Moe
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, Placement
from portable.parallel.shard_plan import Role, ShardPlan
from portable.parallel.tensor.cut import cut_parameter, replace_module
from portable.parallel.tensor.edge import Edge
from portable.parallel.tensor.region import AXIS, Rim, RowLinear
from portable.parallel.tensor.vocabulary import ParallelEmbedding, ParallelHead

_COLUMNS = {Role.column: 0, Role.kv_column: 0, Role.embedding: 0, Role.head: 0, Role.expert_column: 1}
_ROWS = {Role.row: 1, Role.expert_row: 2}
_ALIKE = ("mtp_loss", "z_loss")  # auxiliary losses of the head
_EXPERTS = (Role.expert_column, Role.expert_row)


def divide_in_line(
    model: nn.Module,
    plan: ShardPlan,
    mesh: Mesh,
    placements: MutableMapping[str, Placement],
    *,
    sequence: bool,
    num_kv_heads: int,
) -> None:
    """Cut matrices over ``tp``, surround regions, divide the vocabulary.

    With experts divided over axis ``ep`` their layers are no regions: tokens stay where they are, and the
    experts are left to that pass.
    """
    group = mesh.group(AXIS)
    rim = Rim(group, plan.hidden, sequence=sequence)
    regions = outermost_regions(model, plan, with_experts=mesh.layout.ep == 1)
    kv_axis = _kv_axis(mesh, num_kv_heads)
    vocab_size = _vocab_size(plan, placements)
    roles = {name: plan.role_of_parameter(name) for name, _ in model.named_parameters()}
    for name, role in roles.items():
        if role in _EXPERTS and mesh.layout.ep > 1:
            continue
        dim = (_COLUMNS | _ROWS).get(role)
        axis = kv_axis if role is Role.kv_column else AXIS
        if dim is not None and dim < len(placements[name].shape):
            cut_parameter(model, name, (Cut(dim, axis),), mesh, placements)
            if axis != AXIS:
                placements[name] = placements[name].summed_over(_copies(kv_axis))
        elif sequence or _inside(name, regions):
            # Whole, but applied to this rank's tokens or heads only.
            placements[name] = placements[name].summed_over(AXIS)
    for name in regions:
        rim.surround(model.get_submodule(name))
    _mend_modules(model, plan, rim, vocab_size)
    _count_once(model, regions, group, sequence=sequence)
    if isinstance(model, HeadedModel) and vocab_size:
        ParallelHead(model, vocab_size, rim)
    if sequence:
        Edge(model, plan, mesh)


def outermost_regions(model: nn.Module, plan: ShardPlan, *, with_experts: bool) -> list[str]:
    """Return the names of regions that are inside no other; unless ``with_experts`` those with experts are
    none.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        if plan.role(name) is not Role.region or _inside(name, found):
            continue
        inner = (plan.role(parameter) for parameter, _ in module.named_parameters(prefix=name))
        if with_experts or not any(role in _EXPERTS for role in inner):
            found.append(name)
    return found


def _mend_modules(model: nn.Module, plan: ShardPlan, rim: Rim, vocab_size: int) -> None:
    """Replace modules that must know that they are divided, and tell the others their sizes."""
    for name, module in list(model.named_modules()):
        role = plan.role(name)
        if role is Role.embedding and isinstance(module, nn.Embedding):
            replace_module(model, name, ParallelEmbedding(module, vocab_size, rim))
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
            if role is Role.row and "bias" in dict(module.named_parameters()):
                replace_module(model, name, RowLinear(module, rim.group))


def _count_once(model: nn.Module, regions: list[str], group: Group, *, sequence: bool) -> None:
    """Let auxiliary losses have one gradient, and let their sums, and those of experts' choices, add up over
    ``tp`` as over ``data``.

    In a region every rank computes the losses of all tokens, so those after the first are silent. The head's
    losses are alike on all ranks and have parts of a gradient on each, but only the first records them.
    Under sequence parallelism layers with experts that are no region see other tokens of the same rows.
    """
    for name, module in model.named_modules():
        if isinstance(module, Moe) and name in regions:
            if group.rank > 0:
                module.auxiliary = Auxiliary()
                module.auxiliary.scale = 0.0
        elif isinstance(module, Moe) and sequence:
            module.sum_counts = partial(_sum_counts, module.sum_counts, group)
        elif isinstance(module, HeadedModel) and group.rank > 0:
            module.auxiliary.add = partial(_add_own, module.auxiliary.add)


def _add_own(add: Callable[[str, Tensor], None], name: str, value: Tensor) -> None:
    if name not in _ALIKE:
        add(name, value)


def _sum_counts(before: Sum, group: Group, counts: Tensor) -> Tensor:
    return group.all_reduce(before(counts))


def _vocab_size(plan: ShardPlan, placements: MutableMapping[str, Placement]) -> int:
    """Return the rows of the embedding or of the head, whichever is here; 0 if neither is."""
    names = (f"{plan.head}.weight", f"{plan.embed}.weight")
    shapes = [placements[name].shape for name in names if name in placements]
    return shapes[0][0] if shapes else 0


def _kv_axis(mesh: Mesh, num_kv_heads: int) -> str:
    """Return the axis that key-value heads are divided over: ``tp``, or the outer part of it where ranks are
    more than heads, so that neighbours hold copies of one head.
    """
    size = mesh.size(AXIS)
    if num_kv_heads % size == 0:
        return AXIS
    axis = f"{AXIS}_kv{num_kv_heads}"
    mesh.fold(AXIS, (axis, _copies(axis)), (num_kv_heads, size // num_kv_heads))
    return axis


def _copies(kv_axis: str) -> str:
    return f"{kv_axis}_copy"


def _inside(name: str, regions: list[str]) -> bool:
    return any(name.startswith(f"{region}.") for region in regions)
