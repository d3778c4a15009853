"""What ranks that share a row's tokens compute, against the whole row on one of them.

Shapes: B rows, T tokens, N query heads, K key-value heads, H and V dims of a key and of a value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from portable.core.record import Batch
from portable.kernel.reference.attention import attention
from portable.model.attention import AttentionCore
from portable.model.config import MlaConfig, ModelConfig, MtpConfig
from portable.model.decoder import Decoder
from portable.model.step import begin_step
from portable.parallel.config import ParallelConfig
from portable.parallel.context.order import TokenOrder
from portable.parallel.context.parallel import ContextParallel
from portable.parallel.context.ring import BlockKernels, RingAttention
from portable.parallel.context.slice import stretch_bounds
from portable.parallel.context.ulysses import UlyssesAttention
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER
from portable.testing.runtime import make_runtime
from portable.train.next_token import next_token_loss
from tests.portable.parallel.context.counting import CountingGroup


@dataclass(frozen=True)
class Shape:
    """B, T, N, K, H, V, and where segments begin beside the starts of rows."""

    rows: int = 2
    length: int = 16
    heads: int = 4
    kv_heads: int = 4
    width: int = 8
    value_width: int = 8
    openings: tuple[int, ...] | None = None

    def bounds(self, device: torch.device) -> Tensor | None:
        if self.openings is None:
            return None
        starts = {row * self.length for row in range(self.rows + 1)}
        return torch.tensor(sorted(starts | set(self.openings)), dtype=torch.int32, device=device)


SHAPES = {
    "plain": Shape(),
    "one row": Shape(rows=1, length=24),
    "grouped": Shape(kv_heads=2),
    "one kv head": Shape(kv_heads=1),
    "packed": Shape(length=24, openings=(1, 3, 10, 23, 24 + 7, 24 + 8, 24 + 20)),
    "packed grouped": Shape(rows=3, kv_heads=2, openings=(5, 16 + 12, 32 + 1, 32 + 2, 32 + 3)),
    "whole-row segments": Shape(openings=()),
    "uneven": Shape(length=13),
    "uneven packed": Shape(length=11, kv_heads=2, openings=(4, 11 + 9)),
    "shorter than the chunks": Shape(length=3, openings=(3 + 1,)),
    "narrow values": Shape(width=12, value_width=8),
}
# What two ranks of the processor show is not all shown again.
FEW_SHAPES = ("one row", "one kv head", "packed", "uneven packed")
METHODS = {
    2: {"ring": ("ring", 1), "ulysses": ("ulysses", 1)},
    4: {"ring": ("ring", 1), "ulysses": ("ulysses", 1), "hybrid": ("hybrid", 2)},
}
BALANCERS = ("headtail", "none")
MODEL = ModelConfig(
    vocab_size=33, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
MODELS = {
    "decoder": MODEL,
    "latent": replace(
        MODEL,
        num_kv_heads=4,
        head_dim=12,
        qk_norm=False,
        mla=MlaConfig(kv_lora_rank=8, q_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8),
    ),
    "further tokens": replace(MODEL, mtp=MtpConfig(num_layers=2)),
}


def run(backend: str, size: str, *chosen: str) -> dict[str, Any]:
    """Return the errors of the chosen shapes and models under every method, and what travels."""
    degree = int(size)
    runtime = make_runtime(backend, parallel=ParallelConfig(context_parallel_degree=degree))
    report: dict[str, Any] = {
        "device": runtime.torch_device.type,
        "attention": {},
        "model": {},
        "traffic": traffic(runtime),
    }
    for method in METHODS[degree]:
        for balancer in BALANCERS:
            context = make_context(runtime, method, balancer)
            key = f"{method}, {balancer}"
            report["attention"][key] = {
                name: attention_errors(runtime, context, shape)
                for name, shape in SHAPES.items()
                if name in chosen
            }
        report["model"][method] = {
            name: model_errors(runtime, make_context(runtime, method, "headtail"), config)
            for name, config in MODELS.items()
            if name in chosen
        }
    report["narrow"] = attention_errors(
        runtime, make_context(runtime, "ring", "headtail"), SHAPES["packed"], torch.bfloat16
    )
    runtime.group.close()
    return report


def make_context(runtime: Runtime, method: str, balancer: str) -> ContextParallel:
    degree = runtime.mesh.size("cp")
    name, inner = METHODS[degree][method]
    config = ParallelConfig(
        context_parallel_degree=degree,
        context_parallel_method=name,
        context_parallel_ulysses_degree=inner,
        context_parallel_load_balancer=balancer,
    )
    return ContextParallel(runtime.mesh, config)


def make_core(runtime: Runtime, context: ContextParallel, shape: Shape) -> nn.Module:
    """The core that stands in a model's place after the pass."""
    holder = nn.ModuleDict({"core": PaddingCore(runtime, shape)})
    context.apply(holder, DECODER, runtime.kernels)
    return holder["core"]


class PaddingCore(AttentionCore):
    """The model's core, which here takes narrow values too: what a core of others may do."""

    def __init__(self, runtime: Runtime, shape: Shape) -> None:
        super().__init__(
            runtime.kernels, head_dim=shape.width, num_heads=shape.heads, num_kv_heads=shape.kv_heads
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None) -> Tensor:
        missing = k.shape[-1] - v.shape[-1]
        return super().forward(q, k, F.pad(v, (0, missing)), cu_seqlens)[..., : v.shape[-1]]


def attention_errors(
    runtime: Runtime, context: ContextParallel, shape: Shape, dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Largest errors of the output and of the gradients, relative to the largest entry if that is above 1."""
    core = make_core(runtime, context, shape)
    *qkv, weight = make_qkv(runtime, shape, dtype)
    bounds = shape.bounds(runtime.torch_device)
    expected = dense(qkv, weight, bounds)

    order, rank = context.order, context.group.rank
    padded = -(-shape.length // order.num_chunks) * order.num_chunks
    stretched = None if bounds is None else stretch_bounds(bounds, shape.rows, shape.length, padded)
    leaves = [x.clone().requires_grad_() for x in qkv]
    own = [order.part(fill(x, padded), rank) for x in leaves]
    out = core(*own, stretched)
    assert out.dtype == dtype
    (out * order.part(fill(weight, padded), rank)).sum().backward()
    whole = order.whole(context.group.all_gather(out.detach()))[:, : shape.length]
    grads = [context.group.all_reduce(x.grad.float()) for x in leaves]
    names = ("out", "dq", "dk", "dv")
    return {
        name: difference(found, wanted)
        for name, found, wanted in zip(names, (whole, *grads), expected, strict=True)
    }


def make_qkv(runtime: Runtime, shape: Shape, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and what weighs the output; queries are large, so that attention is uneven."""
    stream = torch.Generator().manual_seed(5)
    sizes = ((shape.heads, shape.width), (shape.kv_heads, shape.width), (shape.kv_heads, shape.value_width))
    drawn = [
        torch.randn(shape.rows, shape.length, *size, generator=stream)
        for size in (*sizes, (shape.heads, shape.value_width))
    ]
    drawn[0] *= 2.0
    return [x.to(dtype).to(runtime.torch_device) for x in drawn]


def dense(qkv: list[Tensor], weight: Tensor, bounds: Tensor | None) -> list[Tensor]:
    """Output and gradients of the whole rows, by the meaning of attention, in float64 on the host."""
    q, k, v = (x.detach().double().cpu().requires_grad_() for x in qkv)
    filled = F.pad(v, (0, k.shape[-1] - v.shape[-1]))
    out = attention(q, k, filled, cu_seqlens=None if bounds is None else bounds.cpu())[..., : v.shape[-1]]
    (out * weight.double().cpu()).sum().backward()
    return [out.detach(), *(x.grad for x in (q, k, v) if x.grad is not None)]


def fill(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, length - x.shape[1]))


def difference(found: Tensor, wanted: Tensor) -> float:
    wanted = wanted.double().cpu()
    return float((found.double().cpu() - wanted).abs().max() / max(1.0, float(wanted.abs().max())))


def model_errors(runtime: Runtime, context: ContextParallel, config: ModelConfig) -> dict[str, float]:
    """The loss and the gradients of a model; those of what it gives for all tokens; and that itself."""
    batch = make_batch(config, runtime.torch_device)
    plain = make_model(runtime, config)
    wanted = next_token_loss(plain, batch).loss
    wanted.backward()
    spread = make_model(runtime, config)
    names = set(dict(spread.named_parameters()))
    context.apply(spread, DECODER, runtime.kernels)
    assert set(dict(spread.named_parameters())) == names
    loss = next_token_loss(spread, context.slice(batch)).loss
    loss.backward()
    report = {
        "loss": difference(context.group.all_reduce(loss.detach()), wanted.detach()),
        "gradients": gradient_error(context, spread, plain),
    }
    spread.zero_grad()
    arguments = (batch.input_ids_BT, batch.position_ids_BT, batch.cu_seqlens)
    gathered = context.forward(spread, *arguments, targets=batch.learnt_target_ids_BT, temperature=1.0)
    (-gathered * batch.loss_weight_BT).sum().backward()
    report["gradients of the gathered"] = gradient_error(context, spread, plain)
    with torch.no_grad():
        report["hidden states"] = difference(context.forward(spread, *arguments), plain(*arguments))
    return report


def make_model(runtime: Runtime, config: ModelConfig) -> Decoder:
    torch.manual_seed(3)
    model = Decoder(config, runtime.kernels)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    begin_step([model], 1.0)
    return model.to(runtime.torch_device).train()


def make_batch(config: ModelConfig, device: torch.device) -> Batch:
    """Rows of a length that nothing divides, in segments, some tokens of the second not learnt."""
    stream = torch.Generator().manual_seed(9)
    rows, length = 2, 13
    ids = torch.randint(config.vocab_size, (rows, length + 1), generator=stream)
    bounds = [0, 4, 5, 13, 20, 26]
    starts = torch.tensor([0] * 4 + [4] + [5] * 8 + [13] * 7 + [20] * 6)
    positions = (torch.arange(rows * length) - starts).view(rows, length)
    weights = torch.ones(rows, length)
    # What predicts further tokens reads targets, so those that are not learnt stand at the end of a segment.
    weights[1, 5:7] = 0.0
    batch = Batch(ids[:, :-1], ids[:, 1:], weights, positions, torch.tensor(bounds, dtype=torch.int32))
    return batch.to(device)


def gradient_error(context: ContextParallel, spread: nn.Module, plain: nn.Module) -> float:
    """The largest error of a gradient that the ranks add up, relative to the largest entry of its tensor."""
    worst = 0.0
    for own, whole in zip(spread.parameters(), plain.parameters(), strict=True):
        assert own.grad is not None
        assert whole.grad is not None
        error = (context.group.all_reduce(own.grad) - whole.grad).abs().max() / whole.grad.abs().max()
        worst = max(worst, float(error))
    return worst


def traffic(runtime: Runtime) -> dict[str, Any]:
    """Bytes that leave a rank, forward and backward, and how many received tensors a ring keeps."""
    shape, degree = Shape(kv_heads=2, width=12, value_width=8), runtime.mesh.size("cp")
    group = CountingGroup(runtime.mesh.group("cp"))
    order = TokenOrder(degree, balanced=True)
    core = PaddingCore(runtime, shape)
    modules = {
        "ring": RingAttention(order, group, BlockKernels.pick(runtime.kernels, core.facts)),
        "ulysses": UlyssesAttention(core, order, group),
    }
    report: dict[str, Any] = {}
    for name, module in modules.items():
        *qkv, weight = make_qkv(runtime, shape, torch.bfloat16)
        q, k, v = (order.part(x, group.rank).requires_grad_() for x in qkv)
        group.start()
        out = module(q, k, v, None)
        forward = {"bytes": group.sent_bytes, "alive": group.most_alive}
        group.start()
        (out * order.part(weight, group.rank)).sum().backward()
        backward = {"bytes": group.sent_bytes, "alive": group.most_alive}
        report[name] = {"forward": forward, "backward": backward}
    return report
