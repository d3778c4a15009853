import json
from pathlib import Path

import pytest

from portable.config.load import load
from portable.core.errors import BackendUnavailable
from portable.device.capability import Capability
from portable.hardware.spec import HardwareConfig, ProbeSpec
from portable.job.choice import describe_choice
from portable.job.machine import Machine, look_for, require_hardware

SPEC = HardwareConfig(
    name="toy_chip",
    backend="toy",
    probe=ProbeSpec(
        device_nodes=["/dev/null", "/dev/toy0"],
        libraries=["libtoy.so.9"],
        packages=["json", "torch_toy"],
        install="the toy driver",
    ),
)


def test_says_what_was_looked_for_what_was_found_and_what_to_install() -> None:
    with pytest.raises(BackendUnavailable) as error:
        require_hardware(SPEC)
    text = str(error.value)
    for piece in ("toy_chip", "/dev/toy0", "libtoy.so.9", "torch_toy", "the toy driver", "dry_run=true"):
        assert piece in text
    assert error.value.exit_code == 2


def test_separates_what_is_there_from_what_is_not() -> None:
    findings = look_for(SPEC)
    assert findings.found == "device node /dev/null; Python package json"
    assert "torch_toy" in findings.looked_for


def test_this_machine_is_usable_and_has_a_runtime() -> None:
    job = load("chat", ["hardware=cpu", "model_path=m"])
    require_hardware(job.hardware)
    runtime = Machine(job).runtime
    assert runtime.device.name == "cpu"
    assert runtime.group.size == 1
    assert runtime.strategy == "single"


def test_a_stage_leaves_what_it_computed_with_and_gives_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(load("chat", ["hardware=cpu", "model_path=m", "+kernel.rows.rms_norm=reference"]))
    machine.end_stage(tmp_path)
    assert not (tmp_path / "runtime.json").exists()  # nothing was computed

    emptied: list[bool] = []
    monkeypatch.setattr(type(machine.runtime.device), "empty_cache", lambda self: emptied.append(True))
    machine.runtime.kernels.pick("rms_norm")
    machine.end_stage(tmp_path)
    record = json.loads((tmp_path / "runtime.json").read_text())
    assert record["strategy"] == {"name": "single", "world_size": 1}
    assert record["kernels"] == [
        {"op": "rms_norm", "name": "reference", "reason": "named by kernel.rows", "passed_over": []}
    ]
    assert Capability.from_json(record["capability"]) == machine.runtime.device.capability()
    assert record["collectives"] == machine.runtime.group.resolution()
    assert emptied == [True]


def test_the_choice_for_other_hardware_is_told_without_it() -> None:
    text = describe_choice("sft", load("sft", ["hardware=ascend_910b", "model_path=m", "data=d"]))
    for piece in ("ascend_910b", "fsdp", "vllm", "bf16", "npu_fusion", "hccl", "no: looked for"):
        assert piece in text


def test_the_choice_for_this_machine_is_usable() -> None:
    text = describe_choice("run", load("run", ["hardware=cpu"]))
    assert "usable here   yes" in text
    assert "data → pretrain" in text


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [(["engine=vllm"], "engine=vllm"), (["attention=npu_fusion"], "npu_fusion")],
)
def test_a_choice_that_this_machine_cannot_keep_says_why(overrides, reason) -> None:
    text = describe_choice("chat", load("chat", ["hardware=cpu", "model_path=m", *overrides]))
    assert "usable here   no: " in text
    assert reason in text
