"""How much host memory it takes to begin: a model on the meta device, spread and filled."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.device.protocol import Dtype
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.init import initial_value
from portable.parallel.config import ParallelConfig, PrecisionConfig
from portable.parallel.placement import Extent
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.parallel.spread_model import SpreadModel
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.precision import forward_context

# An 8-billion-parameter model's shape, each dim divided by about eight.
MODEL = ModelConfig(
    vocab_size=16384,
    hidden_size=512,
    intermediate_size=1792,
    num_layers=12,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    max_seq_len=64,
    tie_embeddings=False,
)
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fsdp": ("fsdp", {}),
    "zero1": ("zero1", {}),
    "ddp": ("ddp", {}),
    "tp": ("single", {"tensor_parallel_degree": 2}),
    "pp": ("single", {"pipeline_parallel_degree": 2}),
}

SIMULATED = {
    "ddp": ("ddp", Dtype.fp32),
    "zero1": ("zero1", Dtype.fp32),
    "zero1, bf16": ("zero1", Dtype.bf16),
    "zero2, bf16": ("zero2", Dtype.bf16),
    "fsdp": ("fsdp", Dtype.fp32),
}


def together() -> dict[str, dict[str, int]]:
    """Return by layout this rank's own bytes of parameters, and the peak of the process above the start."""
    runtime = make_runtime("cpu", "ddp")
    report: dict[str, dict[str, int]] = {}
    for name, (strategy, settings) in {"warm": LAYOUTS["fsdp"], **LAYOUTS}.items():
        own = with_strategy(runtime, strategy, parallel=ParallelConfig(**settings))
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the layout before has left
        report[name] = _begin(own)
    runtime.group.close()
    return report


def on_simulator() -> dict[str, dict[str, int]]:
    """Return the same by a simulated device's own counter, also of copies in 16 bits."""
    runtime = make_runtime("sim", "ddp")
    report: dict[str, dict[str, int]] = {}
    for name, (strategy, dtype) in SIMULATED.items():
        own = with_strategy(runtime, strategy, PrecisionConfig(compute_dtype=dtype))
        index = own.group.local_rank
        gc.collect()  # the model before
        own.device.reset_peak_memory()
        before = own.device.memory(index).used_bytes
        model, _ = _spread(own, replace(MODEL, num_layers=2))
        held: dict[int, int] = {}
        for tensor in _tensors(model):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        peak = own.device.memory(index).peak_bytes
        assert peak is not None
        report[name] = {"held": sum(held.values()), "peak": peak - before}
        report[name]["used"] = own.device.memory(index).used_bytes - before
        report[name]["largest"] = max(tensor.nbytes for tensor in _tensors(model))
        del model, tensor, storage
    runtime.group.close()
    return report


def _tensors(model: SpreadModel) -> Iterator[Tensor]:
    """Yield what computes, and what the optimiser updates."""
    yield from (_local(parameter).detach() for part in model.parts for parameter in part.parameters())
    yield from (_local(shard.parameter).detach() for shard in model.strategy.holdings())


def _begin(runtime: Runtime) -> dict[str, int]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    spread_model, sizes = _spread(runtime, MODEL)
    peak = _status("VmHWM") - before
    parameters = (parameter for part in spread_model.parts for parameter in part.parameters())
    held = sum(_local(parameter).numel() * 4 for parameter in parameters)
    return {"whole": sum(sizes), "largest": max(sizes), "held": held, "peak": peak}


def _spread(runtime: Runtime, config: ModelConfig) -> tuple[SpreadModel, list[int]]:
    """Spread the model; return it with the bytes of its whole parameters."""
    with torch.device("meta"):
        decoder = Decoder(config, runtime.kernels)
    sizes = [parameter.numel() * 4 for parameter in decoder.parameters()]

    def fill(name: str, shape: tuple[int, ...], extent: Extent) -> Tensor:
        return extent.of(initial_value(config, name, shape, 0))

    return spread(decoder, runtime, forward_context(runtime), fill=fill), sizes


def _local(parameter: Any) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
