"""DeepSpeed's stages learn what the strategies of our own learn that divide the same."""

from __future__ import annotations

from typing import Any

import pytest

from portable.device.backend import Backend
from portable.testing.process import run_processes
from portable.testing.requirement import need_devices
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.case import train

CASE = "portable.testing.strategy.stage:run"
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
# Buffers of the model's size, and a threshold of 0, or everything here is too small to be divided.
SMALL: dict[str, Any] = {"reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0}

Reports = list[dict[str, Any]]


def run(backend_name: str, folder: str) -> dict[str, Any]:
    """Train under every strategy of ``STAGES``, and by DeepSpeed's stage of the same number, twice."""
    first = make_runtime(backend_name, "ddp")
    report: dict[str, Any] = {}
    for name, stage in STAGES.items():
        report[name] = train(with_strategy(first, name), folder)
        engine = with_strategy(first, "deepspeed", stage=stage, **SMALL)
        report[str(stage)] = train(engine, folder)
        report[str(stage)]["again"] = train(engine, folder)["hash"]
    first.group.close()
    return report


@pytest.fixture(scope="session")
def stages(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    reason = backend.device().capability().strategies.get("deepspeed", "its record does not list it")
    if reason:
        pytest.skip(f"strategy=deepspeed cannot run on {backend.name}: {reason}")
    need_devices(backend.name, 2)
    folder = tmp_path_factory.mktemp("stages")
    return run_processes(CASE, 2, folder, backend.name, str(folder), timeout_s=540.0)


@pytest.mark.parametrize("native", STAGES)
def test_a_stage_of_deepspeed_learns_what_ours_learns(stages: Reports, native: str) -> None:
    for report in stages:
        found, expected = report[str(STAGES[native])], report[native]
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert found["weights"].keys() == expected["weights"].keys()
        for name, values in expected["weights"].items():
            assert found["weights"][name] == pytest.approx(values, abs=1e-5), name
        assert found["again"] == found["hash"] == stages[0][str(STAGES[native])]["hash"]


@pytest.mark.parametrize("native", STAGES)
def test_deepspeed_says_what_was_set_up(backend: Backend, stages: Reports, native: str) -> None:
    for report in stages:
        described = report[str(STAGES[native])]["described"]
        assert described["world_size"] == len(stages)
        assert described["communicator"] == backend.device().capability().communicator
        assert described["zero_optimization"]["stage"] == STAGES[native]
