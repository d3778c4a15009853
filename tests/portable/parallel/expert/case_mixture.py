"""One step of a decoder with experts, under layouts and strategies: how far it is from one process."""

from __future__ import annotations

import torch
from torch import Tensor

from portable.core.record import Batch
from portable.model.config import Gate, ModelConfig, MoeConfig
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.model.moe.layer import Moe
from portable.model.step import begin_step, finish_step
from portable.parallel.build import STRATEGIES
from portable.parallel.config import (
    DdpConfig,
    FsdpConfig,
    ParallelConfig,
    PrecisionConfig,
    SingleConfig,
    ZeroConfig,
)
from portable.parallel.context.parallel import ContextParallel
from portable.parallel.expert.apply import apply_expert_parallel
from portable.parallel.gradient import local_gradient
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Placement
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER
from portable.parallel.tensor.apply import apply_tensor_parallel
from portable.parallel.tensor.check import TensorFacts
from portable.train.next_token import next_token_loss

ROWS, TOKENS = 4, 16
LOSSES = ("moe_aux_loss", "router_z_loss")
CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    moe=MoeConfig(
        num_experts=7,  # on 2 ranks 4 and 3, on 4 ranks 2, 2, 2 and 1
        top_k=2,
        intermediate_size=24,
        num_shared_experts=1,
        first_dense_layers=1,
        gate=Gate.sigmoid,
        bias_update_rate=0.01,
        aux_loss_coef=0.1,
        router_z_loss_coef=0.01,
    ),
)
STRATEGY = {
    "single": SingleConfig(),
    "ddp": DdpConfig(),
    "zero1": ZeroConfig(name="zero1"),
    "zero2": ZeroConfig(name="zero2"),
    "fsdp": FsdpConfig(),
    "hsdp": FsdpConfig(name="hsdp"),
}
CASES: dict[int, dict[str, tuple[str, Layout]]] = {
    2: {
        "ddp": ("ddp", Layout(dp=2, ep=2)),
        "zero1": ("zero1", Layout(fsdp=2, ep=2)),
        "fsdp": ("fsdp", Layout(fsdp=2, ep=2)),
        "cp": ("single", Layout(cp=2, ep=2)),
        "cp without ep": ("single", Layout(cp=2)),
        "tp": ("single", Layout(tp=2, ep=2)),
        "tp without ep": ("single", Layout(tp=2)),
    },
    4: {
        "ddp, edp": ("ddp", Layout(dp=4, ep=2)),
        "zero1, efsdp": ("zero1", Layout(fsdp=4, ep=2)),
        "zero2, efsdp": ("zero2", Layout(fsdp=4, ep=2)),
        "fsdp, efsdp": ("fsdp", Layout(fsdp=4, ep=2)),
        "hsdp, edp": ("hsdp", Layout(dp=2, fsdp=2, ep=2)),
        "cp × tp": ("single", Layout(cp=2, tp=2, ep=2)),
        "fsdp × cp": ("fsdp", Layout(fsdp=2, cp=2, ep=4)),
        "ddp × tp": ("ddp", Layout(dp=2, tp=2, ep=2)),
    },
    8: {"fsdp × cp × tp": ("fsdp", Layout(fsdp=2, cp=2, tp=2, ep=4))},
}


def run(runtime: Runtime) -> dict[str, dict[str, float]]:
    """Return for each case this rank's largest differences."""
    expected = _one_process(runtime)
    return {
        name: _differences(runtime, strategy, layout, expected)
        for name, (strategy, layout) in CASES[runtime.group.size].items()
    }


def _one_process(runtime: Runtime) -> dict[str, Tensor]:
    model = new_model(CONFIG, runtime.kernels, seed=3)
    batch = _rows(slice(0, ROWS))
    begin_step([model], 1 / _rows(slice(0, ROWS)).num_terms)
    loss = next_token_loss(model, batch).loss / batch.num_terms
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    auxiliary = finish_step([model], lambda counts: counts)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    return {"loss": loss.detach(), "norm": norm, **_balance(model, auxiliary), **gradients}


def _differences(
    runtime: Runtime, strategy_name: str, layout: Layout, expected: dict[str, Tensor]
) -> dict[str, float]:
    mesh = Mesh(layout, runtime.group, runtime.device.torch_type)
    config = ParallelConfig(
        tensor_parallel_degree=layout.tp,
        context_parallel_degree=layout.cp,
        expert_parallel_degree=layout.ep,
    )
    model = new_model(CONFIG, runtime.kernels, seed=3)
    placements = {name: Placement(tuple(p.shape)) for name, p in model.named_parameters()}
    facts = TensorFacts(
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        inner_sizes=(48, 24),
        vocab_size=61,
        has_experts=True,
    )
    apply_tensor_parallel(model, DECODER, mesh, config, facts, placements)
    context = ContextParallel(mesh, config)
    context.apply(model, DECODER, runtime.kernels)
    apply_expert_parallel(model, DECODER, mesh, runtime.kernels, config, placements)
    strategy = STRATEGIES.get(strategy_name)(STRATEGY[strategy_name], PrecisionConfig(), mesh, runtime.device)
    strategy.wrap([model], placements)

    readers, reader = mesh.size("batch"), mesh.index("batch")
    scale = 1 / _rows(slice(0, ROWS)).num_terms
    begin_step([model], scale)
    strategy.accumulate(last=True)
    batch = context.slice(_rows(slice(reader, ROWS, readers)))
    loss = next_token_loss(strategy.modules[0], batch).loss * scale
    strategy.backward(loss)
    strategy.reduce_gradients()
    tokens = mesh.group("stage")
    auxiliary = finish_step([model], tokens.all_reduce)
    losses = {name: tokens.all_reduce(auxiliary.get(name, torch.zeros(()))) for name in LOSSES}
    found = {
        "loss": mesh.group("data").all_reduce(loss.detach()),
        "norm": strategy.clip_grad_norm(0.0),
        **_balance(model, losses),
    }
    report = {name: _far(value, expected[name]) for name, value in found.items()}
    for shard in strategy.shards():
        box = shard.placement.extent(mesh).of(expected[shard.name])
        report[shard.name] = _far(local_gradient(shard), box, expected[shard.name])
    return report


def _balance(model: Decoder, auxiliary: dict[str, Tensor]) -> dict[str, Tensor]:
    found = dict(auxiliary)
    for name, module in model.named_modules():
        if isinstance(module, Moe):
            found |= {f"{name}.load": module.load_E, f"{name}.bias": module.router.bias.clone()}
    return found


def _rows(rows: slice) -> Batch:
    """Return some rows of the step's batch, of which some tokens are not learnt."""
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(CONFIG.vocab_size, (ROWS, TOKENS + 1), generator=draw)
    weights = (torch.rand(ROWS, TOKENS, generator=draw) < 0.7).float()
    positions = torch.arange(TOKENS).expand(ROWS, -1)
    return Batch(*(x[rows].contiguous() for x in (ids[:, :-1], ids[:, 1:], weights, positions)))


def _far(found: Tensor | None, expected: Tensor, whole: Tensor | None = None) -> float:
    """Return the largest difference, relative to the largest entry of the whole."""
    assert found is not None
    assert found.shape == expected.shape
    largest = float((expected if whole is None else whole).abs().max()) or 1.0
    return float((found - expected).abs().max()) / largest if found.numel() else 0.0
