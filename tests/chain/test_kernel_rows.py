"""The chain with a backend's own kernels trains as it does with the reference, whose formulas they compute.

Both start every stage from the same data, model and conversations: those of the mini recipe's own run. What
one stage adds to the difference is then all there is to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from portable.kernel.entry import ANY, REFERENCE
from portable.kernel.registry import all_entries
from tests.chain.chain import Run, run_recipe, run_verb

STAGES = ("pretrain", "sft", "rl")
SEEDS = ("seed-0", "seed-1")
# What every decoder runs in training; a backend that leaves one of them to the reference has lost a row.
TRAINING_OPS = {
    *("rms_norm", "rms_norm__add", "rope__half", "swiglu", "attention", "token_log_probs", "adamw"),
}
ALLOWED = 1e-5
"""float32 rounds by 6e-8; a rougher exponential or a sum in half precision is seen at the first step."""
# Muon multiplies matrices in bf16, whose rounding turns a last bit into 4e-3: curves part, however good the rows.
MUON_STEPS = 8
# The answers to one rollout; later ones are sampled from models that Muon let part.
ROLLOUT_STEPS = 2


@dataclass(frozen=True)
class Pair:
    """The same stages with the rows that the backend has, and with the reference's."""

    backend: str
    fused: Run
    plain: Run

    def part(self, stage: str, value: str = "loss", part: str = "") -> tuple[list[float], list[float]]:
        fused, plain = (run.curve(stage, value, part) for run in (self.fused, self.plain))
        assert len(fused) == len(plain) > 5
        return fused, plain
