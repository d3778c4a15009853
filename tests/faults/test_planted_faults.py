"""Mistakes that only an accelerator shows, planted in our own code: each is caught without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.ascend_schemas import complaint, shipped_lines, uses
from tests.architecture.rules import vendor_words
from tests.architecture.tree import SourceTree
from tests.processes import run_processes

ROOT = Path(__file__).resolve().parents[2]
# Shared code with rows whose operators are torch's own: the processor's are in no other chip's table.
LIKE_ASCEND = ("sim.like=ascend_910b", "kernel.allow=[reference,torch_fused]")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train("none", tmp_path_factory.mktemp("sound"), *LIKE_ASCEND)


def train(fault: str, folder: Path, *overrides: str) -> dict[str, Any]:
    return run_processes("tests.faults.cases:train", 1, folder, fault, *overrides)[0]


def test_sound_code_trains(sound: dict[str, Any]):
    assert sound["error"] == ""
    assert all(1.0 < loss < 5.0 for loss in sound["losses"])


def test_shared_code_does_its_tensor_work_on_the_device(sound: dict[str, Any]):
    ran = {name.partition(".")[0]: count for name, count in sound["device_ops"].items()}
    assert ran["aten::mm"] > 0
    assert ran["aten::_fused_adamw_"] > 0
    assert sum(sound["device_ops"].values()) > 1000
    assert sound["host_ops"] == []


def test_nothing_on_the_hot_path_falls_back_to_the_host_of_an_ascend(sound: dict[str, Any]):
    assert sound["fallbacks"] == {}


def test_a_missing_stream_wait_is_caught(tmp_path: Path):
    error = train("missing wait", tmp_path)["error"]
    assert "wait" in error
    assert "stream" in error
    assert "sim:0" in error


def test_memory_given_back_too_early_is_caught(tmp_path: Path):
    error = train("missing record_stream", tmp_path)["error"]
    assert "freed" in error
    assert "stream" in error


@pytest.mark.parametrize("fault", ["batch left on the host", "table left on the host"])
def test_an_operand_on_the_wrong_device_is_caught(fault: str, tmp_path: Path):
    error = train(fault, tmp_path)["error"]
    assert "same device" in error
    assert "cpu" in error
    assert "sim:0" in error


def test_an_average_is_refused_by_a_chip_without_it_and_composed_by_the_layer(tmp_path: Path):
    for result in run_processes("tests.faults.cases:average", 2, tmp_path):
        assert "avg" in result["refused"].lower()
        assert result["ours"] == [0.5, 0.5, 0.5]
        assert "sum" in result["how"]


@pytest.mark.parametrize(
    "line", ["model.cuda()", "torch.npu.synchronize()", "torch.accelerator.synchronize()"]
)
def test_a_vendors_call_in_shared_code_is_caught(line: str, tmp_path: Path):
    file = tmp_path / "portable" / "train" / "trainer.py"
    file.parent.mkdir(parents=True)
    text = (ROOT / "portable/train/trainer.py").read_text()
    file.write_text(text)
    assert vendor_words(SourceTree(tmp_path)) == []
    anchor = "self.model.step()"
    assert anchor in text
    file.write_text(text.replace(anchor, f"{line}; {anchor}"))
    (violation,) = vendor_words(SourceTree(tmp_path))
    assert violation.path == "portable/train/trainer.py"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("head_num=", "num_heads="),
        ("input_layout=layout,", ""),
        ("npu_fusion_attention(", "npu_fused_attention("),
    ],
)
def test_a_call_that_torch_npu_would_not_take_is_caught(right: str, wrong: str, tmp_path: Path):
    text = (ROOT / "backends/ascend/fused/attention.py").read_text()
    assert right in text
    for content, is_sound in ((text, True), (text.replace(right, wrong), False)):
        file = tmp_path / "attention.py"
        file.write_text(content)
        complaints = [complaint(use, shipped_lines()) for use in uses(file)]
        assert len(complaints) > 0
        assert (not any(complaints)) is is_sound
