"""A fault in one layer of one backend is found and named; where there is none, none is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portable.testing.selection import on_path
from tests.processes import run_processes

CASE = "tests.portable.trace.case_trace"
FAULTS = {
    "scaled": ["+kernel.rows.swiglu=scaled_swiglu"],
    "broken": ["+kernel.rows.swiglu=broken_swiglu"],
    "coarse": ["+kernel.rows.rms_norm=coarse_rms_norm"],
    "turned": ["+kernel.rows.rope=turned_rope"],
    "backward": ["+kernel.rows.swiglu=wrongly_derived_swiglu"],
    "optimizer": ["+kernel.rows.adamw=biased_adamw"],
    "outside of a kernel": [],
}
STARTS = {"another seed": ["seed=1"], "other windows": ["seq_len=16"]}


@pytest.fixture(scope="module")
def recorded(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with recordings of the processor, and what was said while they were made."""
    folder = tmp_path_factory.mktemp("recorded")
    (done,) = run_processes(f"{CASE}:on_cpu", 1, folder, str(corpus), str(folder))
    assert done["record"]["code"] == 0
    return folder, done


@pytest.fixture(scope="module")
def reports(
    recorded: tuple[Path, dict[str, Any]], planted_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What ``trace compare`` says on the simulated accelerator, in one process."""
    cases = {"none": [], **FAULTS, **STARTS, "bf16": ["precision=bf16"]}
    words = {name: ["hardware=sim", *overrides] for name, overrides in cases.items()}
    with on_path([planted_rows]):
        done = run_processes(
            f"{CASE}:compare",
            1,
            tmp_path_factory.mktemp("out"),
            str(recorded[0] / "step.trace"),
            json.dumps(words),
        )
    return done[0]


@pytest.mark.parametrize(
    ("fault", "name", "row"),
    [
        ("scaled", "blocks.3.mlp:swiglu", "scaled_swiglu"),
        ("coarse", "blocks.3.input_norm:rms_norm", "coarse_rms_norm"),
        ("turned", "blocks.3.attention:rope__half", "turned_rope"),
    ],
)
def test_slightly_wrong_kernel_in_layer_3_of_one_backend_is_named(
    reports: dict[str, Any], fault: str, name: str, row: str
) -> None:
    report = reports[fault]
    assert report["code"] == 1
    assert report["culprit"]["name"] == name
    assert report["culprit"]["phase"] == "forward"
    assert report["culprit"]["row"] == row
    assert report["culprit"]["ratio"] > 4
    module, op = name.split(":")
    assert report["verdict"].startswith(f"{module}: {op}: row '{row}' errs ")
    assert f"use kernel.rows.{op}=reference" in report["verdict"]
    # It is found by the recording, too, not only by the reference.
    departing = [call for call in report["calls"] if call["departs"]]
    assert min(departing, key=lambda call: (call["phase"] != "forward", call["place"]))["name"] == name


def test_a_kernel_that_breaks_the_loss_is_named(reports: dict[str, Any]) -> None:
    report = reports["broken"]
    assert report["code"] == 1
    assert report["culprit"]["name"] == "blocks.3.mlp:swiglu"
    assert report["here"]["loss"] is None


def test_a_kernel_wrong_in_its_backward_pass_only_is_named_there(reports: dict[str, Any]) -> None:
    report = reports["backward"]
    assert report["code"] == 1
    assert (report["culprit"]["name"], report["culprit"]["phase"]) == ("blocks.3.mlp:swiglu", "backward")
    assert report["culprit"]["row"] == "wrongly_derived_swiglu"
    departing = [call for call in report["calls"] if call["departs"]]
    assert {call["phase"] for call in departing} == {"backward"}


def test_a_wrong_update_is_named(reports: dict[str, Any]) -> None:
    report = reports["optimizer"]
    assert report["code"] == 1
    assert (report["culprit"]["name"], report["culprit"]["phase"]) == ("(optimizer):adamw", "update")
    assert report["culprit"]["row"] == "biased_adamw"


def test_a_fault_outside_of_a_kernel_names_the_module(reports: dict[str, Any]) -> None:
    report = reports["outside of a kernel"]
    assert report["code"] == 1
    assert report["culprit"]["name"] == "blocks.3.mlp"
    assert not report["culprit"]["is_kernel"]
    assert "not in a kernel" in report["verdict"]


def test_a_sound_backend_agrees(reports: dict[str, Any]) -> None:
    report = reports["none"]
    assert report["code"] == 0
    assert report["culprit"] is None
    assert report["verdict"].startswith("The step agrees")
    assert {replay["name"] for replay in report["kernels"]} >= {"blocks.3.mlp:swiglu", "(optimizer):adamw"}
    assert all(replay["deviations"] for replay in report["kernels"])


def test_a_coarser_number_format_is_explained(reports: dict[str, Any]) -> None:
    report = reports["bf16"]
    assert report["code"] == 0, report["verdict"]
    assert "recorded in fp32, here in bf16" in report["verdict"]
    assert max(call["error_out"] for call in report["calls"]) > 1e-3


def test_another_seed_is_told_as_another_start(reports: dict[str, Any]) -> None:
    report = reports["another seed"]
    assert report["code"] == 1
    assert report["culprit"] is None
    assert report["verdict"].startswith("The parameters differ before the step: ")
    assert "embed.weight" in report["different_parameters"]


def test_another_batch_is_told_as_such(reports: dict[str, Any]) -> None:
    report = reports["other windows"]
    assert report["code"] == 1
    assert report["culprit"] is None
    assert report["different_parameters"] == []
    assert "inputs" in report["different_inputs"]
    assert "The batch differs before the model has seen it" in report["verdict"]


def test_a_traced_step_has_the_numbers_of_the_job(recorded: tuple[Path, dict[str, Any]]) -> None:
    plain, header = recorded[1]["plain"], recorded[1]["header"]
    assert (header["loss"], header["grad_norm"]) == (plain["loss"], plain["grad_norm"])
    assert header["kernels"]
    assert header["hardware"] == "cpu"
    assert "torch" in header["versions"]


def test_a_later_step_and_another_micro_batch_can_be_followed(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, done = recorded
    assert done["second"]["out"].startswith("recorded step 2 of pretrain on cpu: loss ")
    assert done["same"]["code"] == 0
    assert "results are equal to the bit" in done["same"]["out"]
    assert (folder / "step.trace").stat().st_size < 2**21


def test_other_rows_of_one_device_agree(recorded: tuple[Path, dict[str, Any]]) -> None:
    assert recorded[1]["other rows"]["code"] == 0, recorded[1]["other rows"]["out"]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("other model", "the recording is of another model: "),
        ("no step", "--step=4, but the job ended before; name a step that it has"),
        ("no micro-batch", "--micro-batch=3, but step 1 has 2; name one that it has"),
    ],
)
def test_what_cannot_be_compared_is_told(recorded: tuple[Path, dict[str, Any]], case: str, text: str) -> None:
    assert recorded[1][case]["code"] == 2
    assert text in recorded[1][case]["error"]


def test_several_processes_are_refused(corpus: Path, tmp_path: Path) -> None:
    for done in run_processes(f"{CASE}:spread", 2, tmp_path, str(corpus), str(tmp_path)):
        assert done["code"] == 2
        assert (
            "trace follows one process, and this is one of 2; start it without the launcher" in done["error"]
        )
    assert not (tmp_path / "none").exists()
