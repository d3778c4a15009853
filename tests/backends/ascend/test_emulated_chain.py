"""The chain on the emulated chip: with the reference kernels the CPU's bits, with its own its losses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.chain.chain import Run, kernel_rows, run_recipe
from tests.chain.kernel_pair import (
    PLAIN,
    SEEDS,
    STAGES,
    Pair,
    check_all_steps,
    check_muon,
    check_rollout,
    check_rows,
    run_in_float32,
    run_stages,
)

pytestmark = [pytest.mark.ascend_emulation, pytest.mark.slow]

NPU = ("hardware=ascend_910b", "precision=fp32", "engine=native")
REFERENCE = ("attention=reference", PLAIN)
TRAINING_ROWS = {
    "rms_norm": "npu_rms_norm",
    "rms_norm__add": "npu_add_rms_norm",
    "rope__half": "npu_rotary_mul",
    "swiglu": "npu_swiglu",
    "attention": "npu_fusion",
    "adamw": "npu_apply_adam_w",
}
CHAIN = ("data", "pretrain", "synth", "sft", "rl", "eval", "export")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "PORTABLE_ASCEND_KERNELS" not in os.environ:
        pytest.fail("this test needs the emulator around it: run ci/ascend-emulation.sh test")
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> Run:
    return run_recipe(folder / "cpu", folder / "cpu-store", "hardware=cpu", *REFERENCE)


@pytest.fixture(scope="module")
def on_npu(folder: Path) -> Run:
    """A store of its own: nothing that the CPU made is found in it."""
    return run_recipe(folder / "npu", folder / "npu-store", *NPU, *REFERENCE)


@pytest.fixture(scope="module")
def fused(folder: Path, on_npu: Run) -> Pair:
    """The stages that train, with the rows that the hardware's file picks, beside those of ``on_npu``."""
    plain = {stage: on_npu.artefact(stage) for stage in STAGES}
    return Pair("ascend", run_stages(folder / "fused", on_npu, *NPU), plain)


@pytest.fixture(scope="module")
def in_float32(folder: Path, on_npu: Run) -> Pair:
    """The reference runs on the CPU, whose bits are the chip's."""
    plain = run_in_float32(folder / "float32-plain", on_npu, "hardware=cpu", *REFERENCE)
    return Pair("ascend", run_in_float32(folder / "float32-fused", on_npu, *NPU), plain)


def records(run: Run, stage: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in run.artefact(stage).rglob("runtime.json")]


def test_the_reference_kernels_give_the_cpus_results_to_the_bit(on_cpu: Run, on_npu: Run):
    assert tuple(on_npu.digests) == CHAIN
    assert not on_npu.reused
    assert on_npu.digests == on_cpu.digests


@pytest.mark.parametrize("stage", STAGES)
def test_the_chip_computed_them(on_cpu: Run, on_npu: Run, stage: str):
    for run, backend, communicator in ((on_cpu, "cpu", "gloo"), (on_npu, "ascend", "hccl")):
        (record,) = records(run, stage)
        assert (record["backend"], record["capability"]["communicator"]) == (backend, communicator)


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_that_the_chip_has_is_in_use(fused: Pair, stage: str):
    check_rows(fused, stage)
    picked = kernel_rows(fused.fused[stage])
    rows = {op: name for op, name in picked.items() if name.startswith("npu_")}
    assert rows | TRAINING_ROWS == rows


@pytest.mark.parametrize("stage", ["pretrain", "rl"])
def test_in_float32_the_fused_kernels_lose_nothing_at_any_step(in_float32: Pair, stage: str):
    check_all_steps(in_float32, stage)


def test_the_fused_kernels_lose_nothing_in_tuning(fused: Pair):
    check_all_steps(fused, "sft")


def test_with_muon_the_fused_kernels_agree_at_first_and_stay_near(fused: Pair):
    check_muon(fused)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fused_kernels_draw_and_teach_the_same(fused: Pair, seed: str):
    check_rollout(fused, seed)
