"""Layouts through the certificate, several in one start of processes."""

from __future__ import annotations

import traceback
from dataclasses import asdict
from typing import Any

from portable.certificate.bisect import find_departure
from portable.certificate.certify import certify
from portable.certificate.measure import bars_of
from portable.certificate.shrink import make_trial
from portable.config.load import load
from portable.core.errors import ConfigError
from portable.testing.runtime import make_runtime, with_strategy
from portable.train.config import AdamWConfig

DENSE, UNTIED, MOE = (
    "model=quickstart_mini model.num_layers=5 model.vocab_size=1023",
    "model=quickstart_mini model.num_layers=4 model.tie_embeddings=false model.qk_norm=false",
    "model=moe_mini",
)
TWO = {  # one axis at a time
    "dp": f"{DENSE} strategy=ddp",
    "fsdp": f"{DENSE} strategy=fsdp",
    "zero2": f"{DENSE} strategy=zero2",
    "tp": f"{DENSE} parallel.tp=2",
    "tp, untied": f"{UNTIED} parallel.tp=2 parallel.enable_sequence_parallel=false",
    "tp, mla and experts": f"{MOE} parallel.tp=2",
    "tp, mla and experts, whole tokens": f"{MOE} parallel.tp=2 parallel.enable_sequence_parallel=false",
    "pp": f"{DENSE} parallel.pp=2",
    "cp": f"{DENSE} parallel.cp=2",
    "cp, ulysses": f"{DENSE} parallel.cp=2 parallel.context_parallel_method=ulysses",
    "cp, odd rows": f"{DENSE} parallel.cp=2 seq_len=253",
    "tp, odd rows": f"{DENSE} parallel.tp=2 seq_len=253",
    "ep": f"{MOE} parallel.ep=2 strategy=ddp",
    "cp, experts": f"{MOE} parallel.cp=2",
}
FOUR = {  # every pair of axes
    "dp × fsdp": f"{DENSE} strategy=hsdp parallel.dp=2",
    "dp × tp": f"{DENSE} strategy=ddp parallel.tp=2",
    "dp × cp": f"{DENSE} strategy=ddp parallel.cp=2",
    "dp × ep": f"{MOE} strategy=ddp parallel.ep=2",
    "fsdp × tp": f"{DENSE} strategy=fsdp parallel.tp=2",
    "fsdp × cp": f"{DENSE} strategy=fsdp parallel.cp=2",
    "fsdp × ep": f"{MOE} strategy=fsdp parallel.ep=2",
    "tp × cp": f"{DENSE} parallel.tp=2 parallel.cp=2",
    "tp × ep": f"{MOE} strategy=ddp parallel.tp=2 parallel.ep=2",
    "cp × ep": f"{MOE} strategy=ddp parallel.cp=2 parallel.ep=2",
    "tp 2d": f"{UNTIED} parallel.tp=4 parallel.tensor_parallel_mode=2d",
    "tp, more ranks than key-value heads": f"{DENSE} parallel.tp=4",
    # Last: calls are numbered by axis name as long as a process lives, and stages make unequally many.
    "dp × pp": f"{DENSE} strategy=ddp parallel.pp=2",
    "fsdp × pp": f"{DENSE} strategy=fsdp parallel.pp=2",
    "tp × pp": f"{DENSE} parallel.tp=2 parallel.pp=2",
    "pp × cp": f"{DENSE} parallel.pp=2 parallel.cp=2",
    "pp × ep": f"{MOE} strategy=ddp parallel.pp=2 parallel.ep=2",
}


def certificates(layouts: str) -> dict[str, Any]:
    """Return the verdict on each layout, and that of the search for a departure, which must find none."""
    runtime = make_runtime("cpu", "ddp")
    told: dict[str, Any] = {}
    for name, words in {"two": TWO, "four": FOUR}[layouts].items():
        job = load("pretrain", [*words.split(), "hardware=cpu"])
        try:
            trial = make_trial(job.model, job.parallel, seq_len=job.seq_len, full=False)
        except ConfigError as error:  # the same on all ranks, before anything runs
            told[name] = {"refused": str(error)}
            continue
        try:
            own = with_strategy(runtime, job.strategy.name, parallel=trial.parallel)
            verdict = certify(trial, own, AdamWConfig(), 2)
            departure, compared = find_departure(
                trial, own, AdamWConfig(), bars_of(own.precision.compute_dtype)
            )
        except Exception as error:
            raise RuntimeError(f"layout '{name}' failed: {traceback.format_exc()}") from error
        told[name] = {
            "agrees": verdict.agrees,
            "lines": [asdict(line) for line in verdict.lines],
            "departure": str(departure) if departure else "",
            "compared": compared,
        }
    runtime.group.close()
    return told
