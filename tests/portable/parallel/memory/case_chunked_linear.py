"""Weights in tiles on two ranks: the layer alone, and the peak of a simulated device's memory."""

from __future__ import annotations

import torch
from torch import nn

from portable.core.record import Batch
from portable.device.protocol import Dtype
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.parallel.config import ParallelConfig, PrecisionConfig, TileConfig
from portable.parallel.memory.chunked_linear import ChunkedLinear
from portable.parallel.objective import LossSum, Model
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.next_token import next_token_loss
from portable.train.precision import forward_context

TILE_MB = 0.25
WIDE = ModelConfig(  # a feed-forward weight takes 4 MiB
    vocab_size=64,
    hidden_size=256,
    intermediate_size=4096,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    max_seq_len=16,
)


def alone_and_divided() -> dict[str, list[float]]:
    """Return by tile size the largest differences to the plain layer: result, gradient of x, W and b."""
    group = make_runtime("cpu", "ddp").group
    report: dict[str, list[float]] = {}
    for tile_bytes in (10**6, 2 * 4 * 7 * 2, 2 * 4 * 3, 1):
        torch.manual_seed(0)
        plain = nn.Linear(7, 11)  # six rows on the first rank, five on the other
        divided = ChunkedLinear(plain, tile_bytes)
        divided.divide(group, torch.float32)
        x = torch.randn(2, 2, 5, 7)[group.rank].requires_grad_()
        grad = torch.randn(2, 2, 5, 11)[group.rank]
        expected = [plain(x), *torch.autograd.grad(plain(x), (x, plain.weight, plain.bias), grad)]
        out = divided(x)
        found = [out, *torch.autograd.grad(out, (x, divided.weight, divided.bias), grad)]
        expected[2] = group.all_reduce(expected[2]).split(6)[group.rank]
        report[str(tile_bytes)] = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    group.close()
    return report


def peaks() -> dict[str, dict[str, float]]:
    """Return what a forward pass keeps, and how far memory rises until gradients are there, in MiB.

    Of whole weights and of tiles.
    """
    base = make_runtime("sim", "ddp")
    report: dict[str, dict[str, float]] = {}
    for strategy, dtype in (("fsdp", Dtype.fp32), ("ddp", Dtype.bf16)):
        for kind, linear_mb in (("whole", 0.0), ("tiled", TILE_MB)):
            parallel = ParallelConfig(tile=TileConfig(linear_mb=linear_mb))
            own = with_strategy(base, strategy, PrecisionConfig(compute_dtype=dtype), parallel)
            report[f"{strategy}, {kind}"] = _rise(own)
    base.group.close()
    return report


def _rise(runtime: Runtime) -> dict[str, float]:
    model = spread(new_model(WIDE, runtime.kernels, 0), runtime, forward_context(runtime))
    ids = torch.arange(16).view(1, 16)
    batch = Batch(ids, ids + 1, torch.ones(1, 16), ids).to(runtime.torch_device)

    index = runtime.group.local_rank
    runtime.device.reset_peak_memory()
    before = runtime.device.memory(index).used_bytes
    kept = 0

    def loss(model: Model, batch: Batch) -> LossSum:
        nonlocal kept
        sums = next_token_loss(model, batch)
        kept = runtime.device.memory(index).used_bytes - before
        return sums

    (found,) = model.forward_backward([batch], loss, 1.0)
    peak = runtime.device.memory(index).peak_bytes
    assert peak is not None
    return {"loss": float(found.loss), "kept": kept / 2**20, "rise": (peak - before) / 2**20}
