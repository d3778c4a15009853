"""How far a simulated device's memory rises in a step by the kind of head, on the ranks of a test."""

from __future__ import annotations

from typing import Any

import torch

from portable.core.record import Batch
from portable.kernel.reference import log_prob
from portable.model.config import ModelConfig, MtpConfig
from portable.model.init import new_model
from portable.parallel.config import ParallelConfig
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.parallel.tensor import vocabulary
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.next_token import next_token_loss
from portable.train.precision import forward_context
from tests.portable.model.heads import with_all_logits

ROWS, LENGTH, VOCAB = 32, 64, 4096  # logits of all tokens take 32 MiB
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "max_seq_len": LENGTH,
}
KINDS = {
    "tied": ModelConfig(**SHAPE),
    "untied": ModelConfig(**SHAPE, tie_embeddings=False),
    "mtp": ModelConfig(**SHAPE, mtp=MtpConfig(num_layers=1, loss_coef=0.3)),
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("ddp", {}),
    "tp": ("single", {"tensor_parallel_degree": 2, "enable_sequence_parallel": False}),
}


def rises() -> dict[str, float]:
    """Return MiB by kind and layout, and by kind with all logits kept."""
    log_prob.CHUNK_ROWS, vocabulary.CHUNK_VALUES = 64, 64 * VOCAB // 2
    base = make_runtime("sim", "ddp")
    report: dict[str, float] = {}
    for kind, config in KINDS.items():
        for name, (strategy, settings) in LAYOUTS.items():
            own = with_strategy(base, strategy, parallel=ParallelConfig(**settings))
            report[f"{kind}, {name}"] = _rise(own, config, log_prob.token_log_probs)
        own = with_strategy(base, "ddp")
        report[f"{kind}, all logits"] = _rise(own, config, with_all_logits)
    base.group.close()
    return report


def _rise(runtime: Runtime, config: ModelConfig, kernel: Any) -> float:
    decoder = new_model(config, runtime.kernels, 0)
    decoder.log_probs, decoder.z_loss_coef = kernel, 1e-3
    model = spread(decoder, runtime, forward_context(runtime))
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % VOCAB
    positions = torch.arange(LENGTH).expand(ROWS, -1).contiguous()
    batch = Batch(ids, (ids + 1) % VOCAB, torch.ones(ROWS, LENGTH), positions).to(runtime.torch_device)
    index = runtime.group.local_rank
    runtime.device.reset_peak_memory()
    before = runtime.device.memory(index).used_bytes
    model.forward_backward([batch], next_token_loss, 1.0)
    peak = runtime.device.memory(index).peak_bytes
    assert peak is not None
    return (peak - before) / 2**20
