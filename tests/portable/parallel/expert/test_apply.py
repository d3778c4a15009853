"""What the pass leaves of a model; that it computes the same is in test_dispatch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import ConfigError
from portable.kernel.registry import KernelSet
from portable.parallel.config import ParallelConfig
from portable.parallel.expert.apply import apply_expert_parallel
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, Placement
from portable.parallel.shard_plan import Role, ShardPlan
from tests.portable.parallel.expert.case_dispatch import HIDDEN, INNER, PLAN, make_experts

KERNELS = KernelSet("cpu", "fp32")


class Second(LocalGroup):
    """The second of three ranks, which talk to nobody."""

    size, rank = 3, 1

    def split(self, axis: str, parts: Any) -> LocalGroup:
        return self


def mesh_of(ep: int) -> Mesh:
    return Mesh(Layout(dp=3, ep=3), Second(), "cpu") if ep == 3 else Mesh(Layout(), LocalGroup(), "cpu")


def apply(model: nn.Module, plan: ShardPlan = PLAN, ep: int = 3) -> dict[str, Placement]:
    placements = {name: Placement(tuple(p.shape)) for name, p in model.named_parameters()}
    config = ParallelConfig(expert_parallel_degree=ep)
    apply_expert_parallel(model, plan, mesh_of(ep), KERNELS, config, placements)
    return placements


def test_a_rank_keeps_its_run_of_the_experts_under_the_same_names():
    model, whole = make_experts(7, KERNELS), make_experts(7, KERNELS)
    names = list(dict(model.named_parameters()))
    placements = apply(model)
    assert list(dict(model.named_parameters())) == names
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(whole.named_parameters())[name][3:6])
        placement = placements[name]
        assert placement.cuts == (Cut(0, "ep"),)
        assert (placement.data, placement.shard, placement.shape[0]) == ("edp", "efsdp", 7)


def test_parts_without_memory_and_frozen_ones_stay_so():
    with torch.device("meta"):
        model = make_experts(7, KERNELS)
    model.up.requires_grad_(False)
    apply(model)
    assert model.gate.is_meta
    assert model.gate.shape == (3, INNER, HIDDEN)
    assert [p.requires_grad for p in (model.gate, model.up, model.down)] == [True, False, True]


def test_one_rank_alone_keeps_everything():
    model = make_experts(7, KERNELS)
    before = dict(model.named_parameters())
    placements = apply(model, ep=1)
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in before.items())
    assert {placement.data for placement in placements.values()} == {"data"}


def test_other_modules_are_left_alone():
    model = nn.ModuleDict({"router": nn.Linear(4, 7), "experts": make_experts(7, KERNELS)})
    plan = ShardPlan(rules=(("router", Role.router), ("experts.*", Role.expert_column)), token_inputs={})
    router = model["router"].weight
    placements = apply(model, plan)
    assert model["router"].weight is router
    assert placements["router.weight"] == Placement((7, 4))
    assert placements["experts.down"].cuts == (Cut(0, "ep"),)


def test_impossible_numbers_are_refused():
    with pytest.raises(ConfigError, match=r"leaves a rank without any of the 4 experts.*one of \[1, 2, 4\]"):
        apply(make_experts(4, KERNELS))


def test_a_parameter_without_a_role_is_named():
    plan = ShardPlan(rules=PLAN.rules[:2], token_inputs={})
    with pytest.raises(ConfigError, match="gives 'down' no role"):
        apply(make_experts(6, KERNELS), plan)


def test_first_dims_must_agree():
    model = make_experts(6, KERNELS)
    model.up = nn.Parameter(torch.zeros(5, INNER, HIDDEN))
    with pytest.raises(ConfigError, match=r"which are \{'gate': 6, 'up': 5, 'down': 6\}"):
        apply(model)
