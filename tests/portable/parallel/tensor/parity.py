"""A divided model against the whole one: results, and gradients at each parameter's place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.parallel.config import ParallelConfig
from portable.parallel.expert.apply import apply_expert_parallel
from portable.parallel.gradient import gradient_norm, sum_partial_gradients
from portable.parallel.placement import ParameterShard, Placement
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER
from portable.parallel.tensor.apply import apply_tensor_parallel
from portable.parallel.tensor.check import tensor_facts

SIZES: dict[str, Any] = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 21,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 4,
    "max_seq_len": 32,
    "init_std": 0.2,
}


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SIZES | changes))


def make_batch(config: ModelConfig, rows: int, length: int, *, packed: bool) -> dict[str, Tensor]:
    """Return the arguments of a forward pass: some targets are ignored, and segments end anywhere."""
    stream = torch.Generator().manual_seed(3)
    ids, targets = torch.randint(config.vocab_size, (2, rows, length), generator=stream).unbind()
    targets[:, ::4] = -1
    positions = torch.arange(length).repeat(rows, 1)
    batch = {"inputs": ids, "position_ids_BT": positions, "targets": targets}
    if packed:
        positions[0, 3:] -= 3
        starts = sorted({3, *range(0, rows * length + 1, length)})
        batch["cu_seqlens"] = torch.tensor(starts, dtype=torch.int32)
    return batch


def compare(
    runtime: Runtime,
    config: ModelConfig,
    parallel: ParallelConfig,
    batch: dict[str, Tensor],
    *,
    adjust: str = "",
) -> dict[str, float]:
    """Return how far the divided model is from the whole one: absolute for results, relative to the largest
    entry for gradients.
    """
    whole, divided = (_model(config, runtime, adjust) for _ in range(2))
    placements = {name: Placement(tuple(item.shape)) for name, item in divided.named_parameters()}
    apply_tensor_parallel(divided, DECODER, runtime.mesh, parallel, tensor_facts(config), placements)
    apply_expert_parallel(divided, DECODER, runtime.mesh, runtime.kernels, parallel, placements)
    expected, found = _run(whole, batch), _run(divided, batch)
    shards = [ParameterShard(name, item, placements[name]) for name, item in divided.named_parameters()]
    sum_partial_gradients(shards, runtime.mesh)
    distances = {name: _distance(found[name], expected[name]) for name in expected}
    for shard in shards:
        gradient = whole.get_parameter(shard.name).grad
        assert gradient is not None, shard.name
        own = shard.placement.extent(runtime.mesh).of(gradient)
        assert own.shape == shard.parameter.shape, (shard.name, own.shape, shard.parameter.shape)
        assert shard.parameter.grad is not None or not own.numel(), shard.name
        if own.numel():
            worst = _distance(shard.parameter.grad, own) / float(gradient.abs().max())
            distances["gradient"] = max(distances.get("gradient", 0.0), worst)
            if worst > 1e-5:
                distances[shard.name] = worst
    norm = torch.nn.utils.get_total_norm([item.grad for item in whole.parameters()])
    distances["norm"] = _distance(gradient_norm(shards, runtime.mesh), norm) / float(norm)
    return distances | _compare_sums(whole, divided, runtime)


def _compare_sums(whole: Decoder, divided: Decoder, runtime: Runtime) -> dict[str, float]:
    """Return how far the recorded sums, added over ``tp``, are from those of the whole model."""
    expected = whole.auxiliary.take()
    own = {name: value.tolist() for name, value in divided.auxiliary.take().items()}
    everybody = runtime.mesh.group("tp").all_gather_object(own)
    assert set().union(*everybody) == set(expected)
    distances = {}
    for name, value in expected.items():
        total = torch.stack([torch.tensor(sums[name]) for sums in everybody if name in sums]).sum(0)
        distances[name] = _distance(total, value) / float(value.abs().max())
    return distances


def _model(config: ModelConfig, runtime: Runtime, adjust: str) -> Decoder:
    model = new_model(config, runtime.kernels, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms of one, and biases of zero, hide mistakes
                stream = torch.Generator().manual_seed(len(name))
                parameter.add_(torch.rand(parameter.shape, generator=stream) / 2)
    if adjust == "z_loss":
        model.z_loss_coef = 0.01
    if adjust == "row_bias":
        bias = torch.linspace(-1, 1, config.hidden_size)
        model.blocks["0"].attention.o.bias = torch.nn.Parameter(bias)
    return model


def _run(model: Decoder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = torch.linspace(0.5, 1.5, batch["inputs"].numel()).view_as(batch["inputs"])
    others = {name: value for name, value in batch.items() if name != "targets"}
    model.eval()
    with torch.no_grad():
        hidden = model(**others)
        logits = model.logits(hidden)
    model.train()
    log_probs = model(**batch, temperature=0.7)
    (log_probs * weight).sum().backward()
    # Hidden states as a result, e.g. for a value head, which every rank computes alike.
    (model(**others) * hidden.cos()).sum().backward()
    return {"log_probs": log_probs.detach(), "hidden": hidden, "logits": logits}


def _distance(x: Tensor, y: Tensor) -> float:
    assert x.shape == y.shape, (x.shape, y.shape)
    return float((x - y).abs().max())


@contextmanager
def small_chunks(module: Any, values: int) -> Iterator[None]:
    """Let the head's chunks be small, so that there are several."""
    before, module.CHUNK_VALUES = module.CHUNK_VALUES, values
    try:
        yield
    finally:
        module.CHUNK_VALUES = before
