"""Programs on other projects' libraries, unchanged, on the emulated chip: the losses are those of the CPU.

The scripts beside this file know nothing of the emulator; libraries choose the device as they always do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_port

HERE = Path(__file__).parent
CPU = {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu"}  # the libraries' own switches

pytestmark = [pytest.mark.ascend_emulation, pytest.mark.slow]


def launch(script: str, result: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes under the emulator, as a user would."""
    portable = str(Path(sys.executable).with_name("portable"))
    emulate = [portable, "emulate", "ascend", "--memory", "2GiB", "--devices", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*emulate, "--", *torchrun, "--master-port", str(free_port()), str(HERE / script), str(result)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def run(script: str, result: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run a script to its end and return what it wrote."""
    outcome = launch(script, result, *arguments, **variables)
    assert outcome.returncode == 0, outcome.stderr[-6000:]
    return json.loads(result.read_text())


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("trainer_lora.py", ()), ("deepspeed_zero3.py", ("--offload",)), ("accelerate_fsdp2.py", ())],
)
def test_losses_are_those_of_the_cpu(script: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    expected = run(script, tmp_path / "cpu.json", *arguments, **CPU)
    found = run(script, tmp_path / "npu.json", *arguments)
    assert expected["device"] == "cpu"
    assert found["device"] == "npu"
    # On a CPU accelerate silently ignores its FSDP plugin; on the chip it may not.
    assert found.get("kind", "FSDP") == "FSDP"
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    assert found["losses"][-1] < found["losses"][0] - 0.1


def test_deepspeed_meets_the_refusal_of_the_chip(tmp_path: Path) -> None:
    """DeepSpeed 0.19.8 without offload reduces the gradient norm in float64; torch_npu refuses."""
    outcome = launch("deepspeed_zero3.py", tmp_path / "npu.json")
    assert outcome.returncode != 0
    assert "HCCL allreduce: Unsupported data type at::kDouble" in outcome.stderr
    assert "get_grad_norm_direct" in outcome.stderr
