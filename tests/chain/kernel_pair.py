"""The same stages twice from equal inputs: with the kernel rows that a backend has, and with the reference's.

Every stage starts from what one run of the mini recipe left: the same data, model and conversations. What one
stage adds to the difference is then all there is to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from portable.kernel.entry import ANY, REFERENCE
from portable.kernel.op import complete_facts
from portable.kernel.registry import all_entries
from tests.chain.chain import UNTIMED, Run, curve, kernel_rows, run_recipe, run_verb

STAGES = ("pretrain", "sft", "rl")
SEEDS = ("seed-0", "seed-1")
PLAIN = "kernel.allow=[reference]"
ALLOWED = 1e-5
# Muon multiplies in bf16, where a last bit of float32 can become 4e-3: what differs at all parts in the end.
MUON_STEPS = 8
PARTED = 1e-4
# The steps that learn from the first rollout; the next is sampled from models that Muon has let part.
ROLLOUT_STEPS = 2


@dataclass(frozen=True)
class Pair:
    """Artefacts by stage: of the rows that ``backend`` has, and of the reference's."""

    backend: str
    fused: dict[str, Path]
    plain: dict[str, Path]

    def curves(self, stage: str, value: str = "loss", part: str = "") -> tuple[list[float], list[float]]:
        fused, plain = (curve(made[stage] / part, value) for made in (self.fused, self.plain))
        assert len(fused) == len(plain) > 5
        return fused, plain


def run_stages(folder: Path, given: Run, *words: str) -> dict[str, Path]:
    """Run the stages that train, each from what ``given`` made of the stages before it."""
    folder.mkdir()
    inputs = [f"stages=[{','.join(STAGES)}]", f"pretrain.data={given.artefact('data')}"]
    inputs += [f"sft.model_path={given.artefact('pretrain')}", f"sft.data={given.artefact('synth')}"]
    inputs += [f"rl.model_path={given.artefact('sft')}"]
    run = run_recipe(folder / "run", folder / "store", *inputs, *words)
    return {stage: run.artefact(stage) for stage in STAGES}


def run_in_float32(folder: Path, given: Run, *words: str) -> dict[str, Path]:
    """Begin to pretrain as the recipe does, but with Muon in float32, and do RL with AdamW.

    No step rounds to bf16.
    """
    folder.mkdir()
    inputs = [
        "stages=[pretrain]",
        "pretrain.steps=12",
        "pretrain.eval_every_steps=0",
        "pretrain.optim.iteration_dtype=fp32",
        f"pretrain.data={given.artefact('data')}",
    ]
    run = run_recipe(folder / "run", folder / "store", *inputs, *words)
    inputs = ["optim=adamw", "schedule.warmup_steps=1", "steps=6", "seeds=[0]", "prompts_per_rollout=16"]
    inputs += ["num_samples=8", "updates_per_rollout=2", f"model_path={given.artefact('sft')}"]
    done = run_verb(folder, "rl", UNTIMED, *inputs, *words, f"output_dir={folder / 'rl'}")
    assert done.returncode == 0, done.stdout + done.stderr
    return {"pretrain": run.artefact("pretrain"), "rl": folder / "rl"}


def offered_ops(backend: str) -> set[str]:
    """Return the ops for which ``backend`` has more than the reference, and takes it by itself."""
    rows = [row for row in all_entries() if row.backend in (backend, ANY) and row.priority >= 0]
    return {
        row.spec.id
        for row in rows
        if row.name != REFERENCE and not row.refusal("fp32", complete_facts(row.spec, {}))
    }


def check_rows(pair: Pair, stage: str) -> set[str]:
    """Check that every row that the backend has is in use, or none; return the ops that have one."""
    fused, plain = (kernel_rows(made[stage]) for made in (pair.fused, pair.plain))
    assert set(plain) == set(fused)
    assert set(plain.values()) == {REFERENCE}
    used = {op for op, name in fused.items() if name != REFERENCE}
    assert used == offered_ops(pair.backend) & set(fused)
    return used


def check_all_steps(pair: Pair, stage: str) -> None:
    """Check the losses of a stage that computes in float32."""
    fused, plain = pair.curves(stage)
    if stage == "rl":  # its loss is a mean of advantages of both signs and size 1, and may come near zero
        assert fused == pytest.approx(plain, abs=ALLOWED, rel=0)
    else:
        assert fused == pytest.approx(plain, rel=ALLOWED)
    assert fused != plain  # equal to the bit: the same rows ran twice


def check_muon(pair: Pair) -> None:
    """Check the losses of pretraining as the recipe has it."""
    fused, plain = pair.curves("pretrain")
    assert len(plain) > 2 * MUON_STEPS
    assert fused[:MUON_STEPS] == pytest.approx(plain[:MUON_STEPS], rel=ALLOWED)
    assert fused == pytest.approx(plain, rel=PARTED)


def check_rollout(pair: Pair, seed: str) -> None:
    """Check that the first rollout draws the same answers, and that they teach the same."""
    fused, plain = pair.curves("rl", "tokens_seen", seed)
    assert fused[:ROLLOUT_STEPS] == plain[:ROLLOUT_STEPS]
    for value, steps in (("loss", ROLLOUT_STEPS), ("entropy", ROLLOUT_STEPS), ("grad_norm", 1)):
        fused, plain = pair.curves("rl", value, seed)
        assert fused[:steps] == pytest.approx(plain[:steps], abs=ALLOWED, rel=0)
