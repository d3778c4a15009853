"""The chain on the emulated chip: with the reference kernels the CPU's bits, with its own its losses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.chain.chain import Run, run_recipe

pytestmark = [pytest.mark.ascend_emulation, pytest.mark.slow]

NPU = ("hardware=ascend_910b", "precision=fp32", "engine=native")
REFERENCE = ("attention=reference", "kernel.allow=[reference]")
# The emulator tells what a row computes, not how fast.
FUSED = ("kernel.self_test=right",)
STAGES = ("data", "pretrain", "synth", "sft", "rl", "eval", "export")
COMPUTED = ("pretrain", "sft", "rl")
# How many steps of training keep the losses of two kernels together: what differs by rounding grows.
FIRST_STEPS = 8


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
def fused(folder: Path, on_npu: Run) -> Run:
    """Pretraining alone, with the rows that the hardware's file picks."""
    return run_recipe(folder / "fused", folder / "npu-store", *NPU, *FUSED, "stages=[data,pretrain]")


def records(run: Run, stage: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in run.artefact(stage).rglob("runtime.json")]


def test_the_reference_kernels_give_the_cpus_results_to_the_bit(on_cpu: Run, on_npu: Run):
    assert tuple(on_npu.digests) == STAGES
    assert not on_npu.reused
    assert on_npu.digests == on_cpu.digests


@pytest.mark.parametrize("stage", COMPUTED)
def test_the_chip_computed_them(on_cpu: Run, on_npu: Run, stage: str):
    for run, backend, communicator in ((on_cpu, "cpu", "gloo"), (on_npu, "ascend", "hccl")):
        (record,) = records(run, stage)
        assert (record["backend"], record["capability"]["communicator"]) == (backend, communicator)


def losses(run: Run) -> list[float]:
    (file,) = run.artefact("pretrain").rglob("metrics.jsonl")
    return [row["loss"] for row in map(json.loads, file.read_text().splitlines()) if "loss" in row]


def test_the_fused_kernels_give_the_cpus_losses(on_cpu: Run, fused: Run):
    (record,) = records(fused, "pretrain")
    picked = {row["op"]: row["name"] for row in record["kernels"]}
    assert {op: name for op, name in picked.items() if name.startswith("npu_")} == {
        "rms_norm": "npu_rms_norm",
        "rms_norm__add": "npu_add_rms_norm",
        "rope__half": "npu_rotary_mul",
        "swiglu": "npu_swiglu",
        "attention": "npu_fusion",
        "adamw": "npu_apply_adam_w",
    }
    assert fused.reused == ["data"]
    expected = losses(on_cpu)
    assert len(expected) > FIRST_STEPS
    assert losses(fused)[:FIRST_STEPS] == pytest.approx(expected[:FIRST_STEPS], rel=1e-5)
