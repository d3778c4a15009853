"""One-dimensional tensor parallelism against the whole model; run in real processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from portable.core.errors import CapabilityError, ConfigError, ShapeError
from portable.model.config import MlaConfig, MoeConfig, MtpConfig
from portable.model.decoder import Decoder
from portable.model.init import empty_model
from portable.parallel.config import ParallelConfig
from portable.parallel.placement import Placement
from portable.parallel.shard_plan import DECODER
from portable.parallel.tensor import vocabulary
from portable.parallel.tensor.apply import apply_tensor_parallel
from portable.parallel.tensor.check import tensor_facts
from portable.testing.runtime import make_runtime
from tests.portable.parallel.tensor.parity import compare, make_batch, model_config, small_chunks

_MOE = MoeConfig(
    num_experts=4,
    top_k=2,
    intermediate_size=10,
    num_shared_experts=1,
    first_dense_layers=1,
    aux_loss_coef=0.1,
    router_z_loss_coef=0.1,
)
_MLA = MlaConfig(kv_lora_rank=6, q_lora_rank=10, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4)
# name: changes of the model, (rows, length, packed), sequence parallel, adjustment
Case = tuple[dict[str, Any], tuple[int, int, bool], bool, str]
_TWO: dict[str, Case] = {
    "sequence": ({}, (2, 8, False), True, ""),
    "sequence, odd rows in segments": ({"tie_embeddings": False}, (2, 7, True), True, ""),
    "whole tokens": ({"tie_embeddings": False, "qk_norm": False}, (2, 7, True), False, ""),
    "bias": ({"qkv_bias": True}, (1, 5, False), True, "row_bias"),
    "bias, whole tokens": ({"qkv_bias": True}, (1, 5, False), False, "row_bias"),
    "one key-value head": ({"num_kv_heads": 1}, (2, 5, False), True, ""),
    "experts": ({"moe": _MOE, "tie_embeddings": False}, (2, 8, False), True, ""),
    "experts, whole tokens": ({"moe": _MOE}, (2, 8, True), False, "z_loss"),
    "latent attention, further tokens": (
        {"mla": _MLA, "num_kv_heads": 4, "head_dim": 6, "qk_norm": False, "mtp": MtpConfig(num_layers=2)},
        (2, 7, True),
        True,
        "z_loss",
    ),
}
_FOUR: dict[str, Case] = {
    "a rank without vocabulary": ({"vocab_size": 5}, (2, 7, False), True, ""),
    "a rank without vocabulary, whole tokens": (
        {"vocab_size": 5, "tie_embeddings": False},
        (2, 3, False),
        False,
        "",
    ),
    "copies of heads, whole tokens": ({}, (2, 6, False), False, ""),
    "sequence": ({}, (2, 6, True), True, ""),
    "experts": ({"moe": _MOE}, (2, 8, False), True, ""),
}
CASES = {2: _TWO, 4: _FOUR}


def run(size: str) -> dict[str, dict[str, float]]:
    """Return the distances of every case."""
    degree = int(size)
    runtime = make_runtime(parallel=ParallelConfig(tensor_parallel_degree=degree))
    report: dict[str, dict[str, float]] = {}
    for name, (changes, (rows, length, packed), sequence, adjust) in CASES[degree].items():
        config = model_config(**changes)
        parallel = ParallelConfig(tensor_parallel_degree=degree, enable_sequence_parallel=sequence)
        batch = make_batch(config, rows, length, packed=packed)
        with small_chunks(vocabulary, 50):
            report[name] = compare(runtime, config, parallel, batch, adjust=adjust)
    runtime.group.close()
    return report


def run_experts() -> dict[str, float]:
    """Experts over axis ep, which is folded onto tp: tokens stay divided in the layers that have them."""
    parallel = ParallelConfig(tensor_parallel_degree=2, expert_parallel_degree=2)
    runtime = make_runtime(parallel=parallel)
    config = model_config(moe=_MOE)
    distances = compare(runtime, config, parallel, make_batch(config, 2, 8, packed=False))
    runtime.group.close()
    return distances


def refusals() -> dict[str, Any]:
    """Return the words of errors, and the shapes of a model's parts on meta and on the host."""
    parallel = ParallelConfig(tensor_parallel_degree=2)
    runtime = make_runtime(parallel=parallel)
    config = model_config(moe=_MOE)

    def divide(device: str, *, strange: bool = False) -> Decoder:
        model = empty_model(config, runtime.kernels, dtype=torch.float32, device=device)
        if strange:
            model.add_module("extra", torch.nn.Linear(2, 2, bias=False))
        placements = {name: Placement(tuple(item.shape)) for name, item in model.named_parameters()}
        apply_tensor_parallel(model, DECODER, runtime.mesh, parallel, tensor_facts(config), placements)
        return model

    def words(call: Callable[[], object], error: type[Exception]) -> str:
        with pytest.raises(error) as caught:
            call()
        return str(caught.value)

    host, meta = divide("cpu"), divide("meta")
    batch = make_batch(config, 1, 7, packed=False)
    report = {
        "no rule": words(lambda: divide("cpu", strange=True), ConfigError),
        "cache": words(lambda: host(**batch, cache=object()), CapabilityError),
        "experts, odd rows": words(lambda: host(**batch), ShapeError),
        "host": {name: list(item.shape) for name, item in host.named_parameters()},
        "meta": {name: list(item.shape) for name, item in meta.named_parameters() if item.is_meta},
    }
    runtime.group.close()
    return report
