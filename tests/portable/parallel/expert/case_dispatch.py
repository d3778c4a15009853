"""What ranks find out about experts that they share: the largest differences from one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from portable.kernel.registry import KernelSet
from portable.model.config import MoeConfig
from portable.model.moe.experts import Experts
from portable.parallel.config import ParallelConfig
from portable.parallel.expert.apply import apply_expert_parallel
from portable.parallel.expert.dispatch import Dispatch
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import Role, ShardPlan

HIDDEN, INNER = 16, 32  # whole vectors of any processor, so that a row's place changes no bit
PLAN = ShardPlan(
    rules=(("gate", Role.expert_column), ("up", Role.expert_column), ("down", Role.expert_row)),
    token_inputs={},
)


def make_experts(num_experts: int, kernels: KernelSet, hidden: int = HIDDEN, inner: int = INNER) -> Experts:
    config = MoeConfig(num_experts=num_experts, top_k=1, intermediate_size=inner)
    experts = Experts(hidden, config, kernels)
    draw = torch.Generator().manual_seed(num_experts)
    for parameter in experts.parameters():
        if not parameter.is_meta:
            nn.init.normal_(parameter, generator=draw)
    return experts


@dataclass(frozen=True)
class Load:
    """Tokens of each rank, and how they choose: at random, or all of them as ``chosen`` says."""

    tokens: Sequence[int]
    num_experts: int = 4
    top_k: int = 2
    chosen: Sequence[int] | None = None
    hidden: int = HIDDEN
    inner: int = INNER
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    recompute: bool = False

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, weights and choices of the tokens of all ranks."""
        draw = torch.Generator().manual_seed(sum(self.tokens))
        total = sum(self.tokens)
        x = torch.randn(total, self.hidden, generator=draw)
        weights = torch.rand(total, self.top_k, generator=draw)
        order = torch.rand(total, self.num_experts, generator=draw).argsort(-1)[:, : self.top_k]
        experts = order if self.chosen is None else torch.tensor(self.chosen).expand(total, -1)
        return x.to(self.dtype), weights, experts


LOADS = {
    "even": Load((6, 6, 6, 6)),
    "top_1": Load((8, 5, 7, 6), top_k=1),
    "all_experts": Load((3, 4, 5, 2), top_k=4),
    "uneven_experts": Load((7, 3, 5, 1), num_experts=7, top_k=3),
    "all_to_the_first": Load((5, 4, 6, 3), chosen=(0,), top_k=1),
    "all_to_the_last": Load((5, 4, 6, 3), chosen=(3, 2)),
    "a_rank_without_tokens": Load((0, 9, 2, 4)),
    "tokens_on_one_rank": Load((0, 6, 0, 0)),
    "no_tokens": Load((0, 0, 0, 0)),
    "odd_sizes": Load((9, 4, 3, 2), hidden=17, inner=33),
    "bf16": Load((6, 5, 4, 8), dtype=torch.bfloat16),
    "autocast": Load((6, 5, 4, 8), autocast=True),
    "recompute": Load((6, 5, 4, 8), recompute=True),
}
LAYOUTS = {
    2: {"ep2": Layout(dp=2, ep=2)},
    4: {"ep4": Layout(dp=2, cp=2, ep=4), "ep2 × edp2": Layout(dp=2, tp=2, ep=2)},
}


def run(runtime: Runtime) -> dict[str, Any]:
    """Return for each layout and load the largest differences of this rank, and what travelled."""
    report: dict[str, Any] = {"device": runtime.torch_device.type, "traffic": _traffic(runtime)}
    for title, layout in LAYOUTS[runtime.group.size].items():
        mesh = Mesh(layout, runtime.group, runtime.device.torch_type)
        report[title] = {name: _differences(load, mesh, runtime) for name, load in LOADS.items()}
    return report


def _differences(load: Load, mesh: Mesh, runtime: Runtime) -> dict[str, float]:
    device = runtime.torch_device
    tokens = load.tokens[: mesh.world.size]
    first = sum(tokens[: mesh.world.rank])
    mine = slice(first, first + tokens[mesh.world.rank])
    everything = [tensor[: sum(tokens)].to(device) for tensor in load.draw()]
    whole, parts = (
        make_experts(load.num_experts, runtime.kernels, load.hidden, load.inner).to(device, load.dtype)
        for _ in range(2)
    )
    placements = {name: Placement(tuple(p.shape)) for name, p in parts.named_parameters()}
    config = ParallelConfig(expert_parallel_degree=mesh.layout.ep)
    apply_expert_parallel(parts, PLAN, mesh, runtime.kernels, config, placements)

    expected = _compute(whole, load, *everything)
    found = _compute(parts, load, *(tensor[mine] for tensor in everything))
    report = {key: _far(found[key], expected[key][mine]) for key in ("out", "dx", "dweights")}
    for name, parameter in parts.named_parameters():
        total = mesh.group("edp").all_reduce(parameter.grad)
        box = placements[name].extent(mesh)
        report[name] = _far(total, box.of(dict(whole.named_parameters())[name].grad))
    return report


def _compute(experts: nn.Module, load: Load, x: Tensor, weights: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=load.autocast):
        if load.recompute:
            out = checkpoint(experts, x, weights, chosen, use_reentrant=False)
        else:
            out = experts(x, weights, chosen)
    (out.float() ** 2).sum().backward()
    return {"out": out.detach(), "dx": x.grad, "dweights": weights.grad}


def _far(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    assert (found.shape, found.dtype, found.device) == (expected.shape, expected.dtype, expected.device)
    if not found.numel():
        return 0.0
    largest = float(expected.float().abs().max())
    return float((found.float() - expected.float()).abs().max()) / (largest or 1.0)


class Watched:
    """A group that notes the rows which travel."""

    def __init__(self, group: Any) -> None:
        self.group, self.size, self.rank = group, group.size, group.rank
        self.sent: list[tuple[str, int]] = []

    def all_gather(self, tensor: Tensor) -> Tensor:
        return self.group.all_gather(tensor)

    def all_to_all_uneven(self, tensor: Tensor, send: Sequence[int], receive: Sequence[int]) -> Any:
        others = sum(send) - send[self.rank]
        self.sent.append((str(tensor.dtype).removeprefix("torch."), others))
        return self.group.all_to_all_uneven(tensor, send, receive)


def _traffic(runtime: Runtime) -> dict[str, Any]:
    """Return what a forward and a backward pass send, and what they should."""
    report = {}
    for name in ("even", "bf16", "autocast"):
        load, group = LOADS[name], Watched(runtime.group)
        tokens = load.tokens[: group.size]
        x, weights, chosen = (tensor.to(runtime.torch_device) for tensor in load.draw())
        mine = slice(sum(tokens[: group.rank]), sum(tokens[: group.rank + 1]))
        own = make_experts(load.num_experts, runtime.kernels).to(runtime.torch_device, load.dtype)
        length = load.num_experts // group.size
        for parameter in own.parameters():
            parameter.data = parameter.data[group.rank * length : (group.rank + 1) * length]
        dispatch = Dispatch(group, load.num_experts, runtime.kernels)
        _compute(partial(dispatch, own), load, x[mine], weights[mine], chosen[mine])
        owners = chosen // length
        leaving = int((owners[mine] != group.rank).sum())
        arriving = int((owners[: sum(tokens)] == group.rank).sum()) - int((owners[mine] == group.rank).sum())
        report[name] = {"sent": group.sent, "leaving": leaving, "arriving": arriving}
    return report
