"""Training inside accelerate is training, and what it does silently is told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.testing.process import run_processes

CASE = "tests.portable.parallel.strategies.accelerate.case_ranks:run"
STAGES = "tests.portable.parallel.strategies.accelerate.case_ranks:stages"
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    folder = tmp_path_factory.mktemp("accelerate")
    return run_processes(CASE, 2, folder, "cpu", str(folder), "ddp")


def check(reports: Reports) -> None:
    """Compare with our own strategy of the same kind, whose contract compares it with one process."""
    for report in reports:
        found, expected = report["trained"], report["own"]
        for own, wanted in ((found, expected), (report["muon"], report["own_muon"])):
            assert own["losses"] == pytest.approx(wanted["losses"], abs=2e-6)
            assert own["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
            for name, values in wanted["weights"].items():
                assert own["weights"][name] == pytest.approx(values, abs=5e-6), name
        assert found["norm_after"] == 0.0
        assert found["computing_numel"] == expected["computing_numel"]
        assert found["hash"] == report["again"] == reports[0]["trained"]["hash"]
        assert report["resumed"] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert report["environment"] == []


def test_it_trains_as_our_own_strategy_and_its_state_goes_both_ways(reports: Reports) -> None:
    check(reports)
    described = reports[0]["trained"]["described"]
    assert described["engine"] == "DistributedDataParallel"
    assert described["distributed_type"] == "MULTI_CPU"
    assert described["world_size"] == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("fsdp2 on the CPU", "CapabilityError: .* distributed_type MULTI_CPU instead of FSDP"),
        (
            "fsdp2 alone",
            "CapabilityError: .* distributed_type NO instead of FSDP; num_processes 1 instead of 2",
        ),
        ("deepspeed on the CPU", "CapabilityError: .* distributed_type MULTI_CPU instead of DEEPSPEED"),
        ("deepspeed alone", "CapabilityError: .* num_processes 1 instead of 2"),
        ("ddp alone", "CapabilityError: .* distributed_type NO instead of MULTI_"),
        ("not wrapped", "CapabilityError: .* engine Linear"),
        ("other group", "CapabilityError: .* process group of its own"),
        ("asked for fsdp2", "ConfigError: .* use strategy.plugin=ddp, or strategy=fsdp"),
    ],
)
def test_what_accelerate_does_in_silence_is_an_error(reports: Reports, fault: str, words: str) -> None:
    for report in reports:
        assert re.match(words, report["faults"][fault]), report["faults"][fault]


@pytest.mark.ascend_emulation
def test_fsdp2_trains_as_our_own_on_an_emulated_chip(tmp_path: Path) -> None:
    check(run_processes(CASE, 2, tmp_path, "ascend", str(tmp_path), "fsdp2"))


def check_stages(reports: Reports, *stages: str) -> None:
    """Compare with our own strategies that divide the same."""
    for report in reports:
        for stage in stages:
            found, expected = report[stage]["trained"], report[stage]["own"]
            assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
            assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
            for name, values in expected["weights"].items():
                assert found["weights"][name] == pytest.approx(values, abs=1e-5), name
            assert found["hash"] == report[stage]["again"] == reports[0][stage]["trained"]["hash"]
            assert report[stage]["resumed"] == pytest.approx([0.0, 0.0], abs=1e-6)
            described = found["described"]
            assert described["distributed_type"] == "DEEPSPEED"
            assert described["engine"] == "DeepSpeedEngine"
            assert described["world_size"] == 2
            assert described["zero_optimization"]["stage"] == int(stage)
        # What accelerate tells the rest of the process is taken back.
        assert report["tells transformers"] is False
        assert report["environment"] == []


@pytest.mark.slow
def test_its_deepspeed_plugin_trains_as_our_own_strategies(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="the plugin needs the package")
    stages = ("0", "1", "2", "3")
    # The first start on a machine compiles a small operator of DeepSpeed's.
    check_stages(run_processes(STAGES, 2, tmp_path, "cpu", str(tmp_path), *stages, timeout_s=540.0), *stages)


@pytest.mark.ascend_emulation
@pytest.mark.slow
def test_its_deepspeed_plugin_trains_on_an_emulated_chip(tmp_path: Path) -> None:
    stages = ("1", "2", "3")
    reports = run_processes(STAGES, 2, tmp_path, "ascend", str(tmp_path), *stages, timeout_s=540.0)
    check_stages(reports, *stages)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"plugin": "fsdp"}, "use ddp, fsdp2 or deepspeed"),
        ({"plugin": "deepspeed", "stage": 4}, "strategy.stage=4; use 0, 1, 2 or 3"),
        ({"bucket_mb": 0}, "use 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AccelerateConfig(**settings)


def test_the_trainer_does_not_import_it() -> None:
    code = (
        "import sys, portable.train.trainer, portable.parallel.build; sys.exit('accelerate' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
