"""The chain with a backend's own kernels trains as it does with the reference, whose formulas they compute.

Every stage starts from what the mini recipe's own run left: the same data, model and conversations. What one
stage adds to the difference is then all there is to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from portable.kernel.entry import ANY, REFERENCE
from portable.kernel.registry import all_entries
from tests.chain.chain import UNTIMED, Run, curve, kernel_rows, run_recipe, run_verb

STAGES = ("pretrain", "sft", "rl")
SEEDS = ("seed-0", "seed-1")
PLAIN = "kernel.allow=[reference]"
# What every decoder trains with; a backend that leaves one of them to the reference has lost a row.
TRAINING_OPS = {"rms_norm", "rms_norm__add", "rope__half", "swiglu", "attention", "token_log_probs", "adamw"}
ALLOWED = 1e-5
# Muon multiplies in bf16, where a last bit of float32 can become 4e-3: whatever two rows differ in, curves part.
MUON_STEPS = 8
PARTED = 1e-4
# The steps that learn from the first rollout; the next is sampled from models that Muon has let part.
ROLLOUT_STEPS = 2


@dataclass(frozen=True)
class Pair:
    """Artefacts by stage: of the rows that the backend has, and of the reference's."""

    backend: str
    fused: dict[str, Path]
    plain: dict[str, Path]

    def curves(self, stage: str, value: str = "loss", part: str = "") -> tuple[list[float], list[float]]:
        fused, plain = (curve(made[stage] / part, value) for made in (self.fused, self.plain))
        assert len(fused) == len(plain) > 5
        return fused, plain


@pytest.fixture(scope="module", params=["cpu", pytest.param("sim", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def quickstart(backend: str, mini: Run, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The recipe as it stands; with the rows of the CPU it is the mini recipe's own run."""
    folder = tmp_path_factory.mktemp("quickstart")
    base, tuned = mini.artefact("pretrain"), mini.artefact("sft")
    words = [f"hardware={backend}", f"stages=[{','.join(STAGES)}]", f"pretrain.data={mini.artefact('data')}"]
    words += [f"sft.model_path={base}", f"sft.data={mini.artefact('synth')}", f"rl.model_path={tuned}"]
    plain = run_recipe(folder / "plain", folder / "store", *words, PLAIN)
    fused = mini if backend == "cpu" else run_recipe(folder / "fused", folder / "store", *words)
    return Pair(backend, *({stage: run.artefact(stage) for stage in STAGES} for run in (fused, plain)))


@pytest.fixture(scope="module")
def with_adamw(backend: str, mini: Run, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Pretraining and RL with float32 throughout."""
    folder = tmp_path_factory.mktemp("adamw")
    made: list[dict[str, Path]] = []
    for name, rows in (("fused", "kernel.allow=[*]"), ("plain", PLAIN)):
        words = [f"hardware={backend}", rows, "stages=[pretrain]", "optim@pretrain.optim=adamw"]
        words += [f"pretrain.data={mini.artefact('data')}"]
        run = run_recipe(folder / f"pretrain-{name}", folder / "store", *words)
        rl = folder / f"rl-{name}"
        words = [f"model_path={mini.artefact('sft')}", "optim=adamw", "schedule.warmup_steps=1", "steps=6"]
        words += ["seeds=[0]", "prompts_per_rollout=16", "num_samples=8", "updates_per_rollout=2"]
        done = run_verb(folder, "rl", f"hardware={backend}", rows, UNTIMED, *words, f"output_dir={rl}")
        assert done.returncode == 0, done.stdout + done.stderr
        made.append({"pretrain": run.artefact("pretrain"), "rl": rl})
    return Pair(backend, *made)


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_that_the_backend_has_is_in_use(quickstart: Pair, stage: str) -> None:
    fused, plain = (kernel_rows(made[stage]) for made in (quickstart.fused, quickstart.plain))
    assert set(plain) == set(fused)
    assert set(plain.values()) == {REFERENCE}
    here = (quickstart.backend, ANY)
    rows = [row for row in all_entries() if row.backend in here and row.priority >= 0]
    offered = {row.spec.id for row in rows if row.name != REFERENCE and "fp32" in row.dtypes}
    assert {op for op, name in fused.items() if name != REFERENCE} == offered & set(fused)
    assert offered & set(fused) >= TRAINING_OPS


def test_tuning_loses_nothing_at_any_step(quickstart: Pair) -> None:
    fused, plain = quickstart.curves("sft")
    assert fused == pytest.approx(plain, rel=ALLOWED)
    assert fused != plain  # equal to the bit would mean that the same rows were run twice


def test_with_adamw_pretraining_loses_nothing_at_any_step(with_adamw: Pair) -> None:
    fused, plain = with_adamw.curves("pretrain")
    assert fused == pytest.approx(plain, rel=ALLOWED)
    assert fused != plain


def test_with_adamw_rl_loses_nothing_at_any_step(with_adamw: Pair) -> None:
    fused, plain = with_adamw.curves("rl")
    # Absolute: the loss is a mean of advantages of both signs and size 1, and may come near zero.
    assert fused == pytest.approx(plain, abs=ALLOWED, rel=0)
    assert fused != plain


def test_with_muon_pretraining_agrees_at_first_and_stays_near(quickstart: Pair) -> None:
    fused, plain = quickstart.curves("pretrain")
    assert len(plain) > 2 * MUON_STEPS
    assert fused[:MUON_STEPS] == pytest.approx(plain[:MUON_STEPS], rel=ALLOWED)
    assert fused == pytest.approx(plain, rel=PARTED)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_rollout_draws_and_teaches_the_same(quickstart: Pair, seed: str) -> None:
    fused, plain = quickstart.curves("rl", "tokens_seen", seed)
    assert fused[:ROLLOUT_STEPS] == plain[:ROLLOUT_STEPS]
    for value, steps in (("loss", ROLLOUT_STEPS), ("entropy", ROLLOUT_STEPS), ("grad_norm", 1)):
        fused, plain = quickstart.curves("rl", value, seed)
        assert fused[:steps] == pytest.approx(plain[:steps], abs=ALLOWED, rel=0)
