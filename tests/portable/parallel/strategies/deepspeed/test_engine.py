"""DeepSpeed's stages train what data parallelism trains, over real processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.portable.parallel.strategies.deepspeed import case_engine
from tests.processes import run_processes

pytest.importorskip("deepspeed", reason="strategy=deepspeed needs the package")
CASE = "tests.portable.parallel.strategies.deepspeed.case_engine"
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    folder = tmp_path_factory.mktemp("pair")
    # The first start on a machine compiles a small operator of DeepSpeed's.
    return run_processes(f"{CASE}:run", 2, folder, str(folder), timeout_s=400.0)


@pytest.mark.parametrize("stage", case_engine.STAGES)
@pytest.mark.parametrize("kind", case_engine.NORMS)
def test_a_stage_trains_what_ddp_trains(pair: Reports, kind: str, stage: int):
    for report in pair:
        expected, found = report["fp32"][kind]["ddp"], report["fp32"][kind][str(stage)]
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-6)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        for name, values in expected["weights"].items():
            assert np.abs(np.subtract(found["weights"][name], values)).max() <= 1e-5, name


def test_clipping_changes_the_steps(pair: Reports):
    assert pair[0]["fp32"]["clipped"]["2"]["losses"] != pair[0]["fp32"]["free"]["2"]["losses"]
    assert max(pair[0]["fp32"]["clipped"]["2"]["norms"]) > case_engine.NORMS["clipped"]


@pytest.mark.parametrize("stage", case_engine.STAGES[1:])
def test_a_stage_computes_in_bf16(pair: Reports, stage: int):
    wide, narrow = pair[0]["fp32"]["clipped"]["ddp"]["losses"], pair[0]["bf16"][str(stage)]["losses"]
    assert narrow[0] != wide[0]
    assert narrow == pytest.approx(pair[0]["bf16"]["ddp"]["losses"], abs=2e-2)


@pytest.mark.parametrize("stage", case_engine.STAGES)
def test_a_run_moves_between_fsdp_and_a_stage_to_the_bit(pair: Reports, stage: int):
    for report in pair:
        found, left = report["resume"][str(stage)]["found"], report["resume"][str(stage)]["left"]
        assert found[1:] == left[:-1]
        assert len({*left}) == 3


@pytest.mark.parametrize(
    ("run", "parameters", "gradients"),
    [
        ("fp32, 0", 4, (4, 4)),
        # Beside the weights, float32 ones that are updated; of gradients at least a rank's part is left, in
        # buckets that are kept for it.
        ("fp32, 1", 4 + 4 / 2, (4 / 2, 4)),
        ("fp32, 2", 4 + 4 / 2, (4 / 2, 4)),
        ("fp32, 3", 4 / 2 + 4 / 2, (4 / 2, 4 / 2)),
        ("bf16, 1", 2 + 4 / 2, (2 / 2, 2)),
        ("bf16, 2", 2 + 4 / 2, (4 / 2, 4 / 2)),
        ("bf16, 3", 2 / 2 + 4 / 2, (4 / 2, 4 / 2)),
    ],
)
def test_memory_by_class_has_the_bytes_of_the_formula(
    pair: Reports, run: str, parameters: float, gradients: tuple[float, float]
):
    """In bytes a parameter over two ranks; the engine fills its parts up to whole alignments."""
    for report in pair:
        found = report["memory"][run]
        assert found["parameters"] == pytest.approx(parameters, rel=0.02)
        assert found["optimizer"] == pytest.approx(8 if run.endswith("0") else 8 / 2, rel=0.02)
        assert 0.95 * gradients[0] <= found["gradients"] <= 1.05 * gradients[1]


@pytest.mark.parametrize(
    ("planted", "text"),
    [
        ("class", "engine SimpleNamespace instead of DeepSpeedEngine"),
        ("stage", "zero stage 1 instead of 2"),
        ("ranks", "data-parallel ranks [0, 1] instead of ["),
        ("copies", "model-parallel ranks 2 instead of 1"),
        ("device", "accelerator cpu instead of meta"),
        ("format", "number format torch.bfloat16 instead of torch.float32"),
        ("clipping", "clipping 1.0 instead of 0.0"),
        ("optimiser", "optimiser Identity instead of DeepSpeedZeroOptimizer"),
        ("muon", "by one AdamW, not by Muon, AdamW; use optim=adamw"),
        ("bf16 at stage 0", "use strategy.stage=1"),
        ("bf16 weights", "use precision=bf16"),
        ("fp16", "updates before the trainer sees an overflow"),
    ],
)
def test_what_is_not_as_asked_for_is_refused(pair: Reports, planted: str, text: str):
    assert all(text in report["faults"][planted] for report in pair)


@pytest.mark.slow
@pytest.mark.parametrize("device", case_engine.OFFLOADS)
def test_state_on_the_host_or_a_disk_trains_the_same(device: str, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(device)
    for report in run_processes(f"{CASE}:offloaded", 2, folder, str(folder), device, timeout_s=1500.0):
        expected = report.pop("ddp")
        assert len(report) == len(case_engine.OFFLOADS[device])
        for found in report.values():
            assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
            assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
