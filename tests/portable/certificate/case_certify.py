"""A layout that is right and one with a planted fault, through the certificate, in one start of processes."""

from __future__ import annotations

import contextlib
from typing import Any

from portable.certificate.certify import certify
from portable.certificate.shrink import Trial
from portable.model.config import ModelConfig
from portable.parallel.config import ParallelConfig
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.config import AdamWConfig
from tests.portable.certificate.fault import norm_not_summed

MODEL = ModelConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    max_seq_len=24,
    init_std=0.1,
)


def both() -> dict[str, Any]:
    runtime = make_runtime("cpu", "ddp")
    parallel = ParallelConfig(tensor_parallel_degree=2)
    own = with_strategy(runtime, "single", parallel=parallel)
    trial = Trial(MODEL, parallel, seq_len=13, rows=2, num_micro_batches=1)
    told: dict[str, Any] = {}
    for name, fault in (("right", contextlib.nullcontext), ("wrong", norm_not_summed)):
        with fault():
            verdict = certify(trial, own, AdamWConfig(), 1)
        departure = verdict.departure
        told[name] = {
            "agrees": verdict.agrees,
            "compared": [line.compared for line in verdict.lines],
            "departure": departure and [departure.name, departure.phase],
        }
    runtime.group.close()
    return told
