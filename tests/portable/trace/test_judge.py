"""Who is named, on recordings made by hand; and what the report says of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from portable.core.errors import ConfigError
from portable.trace.judge import Failure, Judgement, judge
from portable.trace.recording import Node, Recording, Summaries
from portable.trace.replay import FORWARD, UPDATE, Deviation, Replay
from portable.trace.report import as_json, as_text, verdict
from portable.trace.summary import summarise

HEADER = {
    "step": 1,
    "hardware": "one",
    "precision": "fp32",
    "compute_dtype": "fp32",
    "loss": 2.0,
    "grad_norm": 1.0,
    "versions": {"torch": "2.13.0"},
}
SHAPE = (16, 32)
IDS = torch.arange(16)


def values(seed: int, error: float = 0.0) -> Tensor:
    stream, other = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1000)
    x = torch.randn(SHAPE, generator=stream, dtype=torch.float64)
    return (x + error * torch.randn(SHAPE, generator=other, dtype=torch.float64)).float()


def one(tensor: Tensor) -> Summaries:
    return {"": summarise(tensor)}


def record(
    *,
    hidden: float = 0.0,
    kernel: float = 0.0,
    mlp: float = 0.0,
    out: float = 0.0,
    grad: float = 0.0,
    weight: float = 0.0,
    seed: float = 0.0,
    ids: Tensor = IDS,
    **header: object,
) -> Recording:
    """A model of an embedding and a layer with a kernel, in which every result has an error of its own."""
    x, mixed, y = values(1, hidden), values(2, kernel), values(3, mlp)
    nodes = [
        Node("embed", inputs=one(ids), outputs=one(x), grad_outputs=one(values(4, grad))),
        Node("mlp:swiglu", "fast", one(x), one(mixed), one(values(5)), one(values(6, grad)), 0),
        Node("mlp", "", one(x), one(y), one(values(7)), one(values(4, grad)), 1),
        Node("(model)", "", {"ids": summarise(ids)}, one(values(8, out)), one(values(9))),
    ]
    return Recording(
        {**HEADER, **header},
        nodes,
        {"embed.weight": summarise(values(10, seed))},
        {"embed.weight": summarise(values(11, weight))},
        [2.0],
    )


def replayed(ratio: float = 1.0, here: float | None = None, row: str = "fast") -> list[Replay]:
    deviation = Deviation(FORWARD, "", ratio, 4.0, "at (0, 0): 1 instead of 2", here)
    return [Replay("mlp:swiglu", "swiglu", row, (deviation,))]


def compare(present: Recording, replays: list[Replay] | None = None) -> Judgement:
    return judge(record(), present, replayed() if replays is None else replays)


def test_equal_runs_agree() -> None:
    found = compare(record())
    assert found.agrees
    assert verdict(found).startswith("The step agrees: all 8 results are equal to the bit. 1 kernel calls")


def test_rounding_is_explained_and_grows_along_the_way() -> None:
    found = compare(record(hidden=1e-7, kernel=5e-7, mlp=6e-7, out=1e-6, grad=2e-6, weight=3e-6))
    assert found.agrees
    assert "which rounding explains" in verdict(found)
    assert len(found.steps) == 8


def test_what_is_passed_on_is_not_blamed() -> None:
    found = compare(record(hidden=1e-3, kernel=2e-3, mlp=2e-3, out=1e-3, grad=2e-3))
    assert found.culprit is not None
    assert (found.culprit.name, found.culprit.phase) == ("embed", "forward")
    assert verdict(found).startswith("embed departs in its forward pass: error ")
    assert "not in a kernel. Look at its own operators." in verdict(found)


def test_a_module_whose_kernels_are_sound_is_named_with_them() -> None:
    found = compare(record(mlp=1e-3))
    assert found.culprit is not None
    assert found.culprit.name == "mlp"
    assert "not in a kernel; the 1 kernel calls inside it agree" in verdict(found)


def test_a_kernel_that_fails_is_named_before_the_module_around_it() -> None:
    found = compare(record(kernel=1e-3, mlp=1e-3), replayed(800.0, 1.0))
    assert isinstance(found.culprit, Failure)
    assert verdict(found) == (
        "mlp: swiglu: row 'fast' errs 800 times as much as its reference (fp32, forward; 4 times is "
        "allowed), in its result at (0, 0): 1 instead of 2. The reference row agrees on this device (1 "
        "times): use kernel.rows.swiglu=reference, and report the row."
    )


def test_a_kernel_that_fails_below_the_noise_of_the_model_is_named_all_the_same() -> None:
    found = compare(record(compute_dtype="bf16"), replayed(20.0, 1.0))
    assert isinstance(found.culprit, Failure)
    assert not found.agrees


def test_where_the_reference_fails_too_the_device_is_named() -> None:
    assert "operators of torch are at fault on this device" in verdict(
        compare(record(), replayed(90.0, 80.0))
    )
    reference = replayed(90.0, 90.0, "reference")
    assert "operators of torch are at fault on this device" in verdict(compare(record(), reference))


def test_a_kernel_that_departs_but_agrees_with_its_reference_points_at_the_recording() -> None:
    found = compare(record(kernel=1e-3))
    assert found.culprit is not None
    assert found.culprit.name == "mlp:swiglu"
    assert "The suspect is the recording's row 'fast' on one" in verdict(found)


def test_a_kernel_that_was_not_repeated_says_why() -> None:
    found = compare(record(kernel=1e-3), [Replay("mlp:swiglu", "swiglu", "fast", skipped="it is too large")])
    assert verdict(found).endswith("The call was not repeated: it is too large.")
    assert "mlp:swiglu (fast): it is too large" in as_text(found)


def test_a_parameter_whose_gradient_alone_departs_is_named() -> None:
    found = compare(record(weight=1e-2))
    assert found.culprit is not None
    assert found.culprit.name == "gradient of embed.weight"


def test_a_wrong_objective_is_named() -> None:
    present = record()
    present.nodes[-1].grad_outputs = one(values(9, 1e-3))
    found = compare(present)
    assert found.culprit is not None
    assert found.culprit.name == "(objective)"


def test_other_parameters_are_told_first() -> None:
    found = compare(record(seed=1.0, mlp=1.0))
    assert not found.agrees
    assert found.parameters == ["embed.weight"]
    assert found.steps == []
    assert verdict(found).startswith("The parameters differ before the step: embed.weight. ")
    assert "Modules were not compared" in as_text(found)


def test_after_steps_of_their_own_parameters_may_drift_a_little() -> None:
    recorded = record(step=2)
    assert judge(recorded, record(step=2, seed=1e-4), replayed()).agrees
    assert judge(recorded, record(step=2, seed=0.1), replayed()).parameters == ["embed.weight"]


def test_another_batch_is_told_first() -> None:
    found = compare(record(ids=IDS + 1, mlp=1.0))
    assert found.batch == ["ids"]
    assert verdict(found).startswith("The batch differs before the model has seen it: ids. ")


def test_a_kernel_may_fail_though_the_runs_start_apart() -> None:
    text = verdict(compare(record(ids=IDS + 1), replayed(800.0, 1.0)))
    assert "The batch differs" in text
    assert "row 'fast' errs 800 times" in text


def test_a_coarser_format_explains_more_and_is_told() -> None:
    coarse = {"compute_dtype": "bf16", "precision": "bf16"}
    found = compare(record(hidden=3e-3, kernel=5e-3, mlp=5e-3, **coarse))
    assert found.agrees
    assert "(recorded in fp32, here in bf16: with one precision more would be seen)" in verdict(found)
    assert not compare(record(mlp=0.5, **coarse)).agrees


def test_numbers_that_are_not_finite_are_blamed_where_they_arise() -> None:
    present = record()
    broken = values(2).index_fill(0, torch.tensor([0]), math.nan)
    present.nodes[1].outputs = one(broken)
    present.nodes[3].outputs = one(broken)
    present.header["loss"] = math.nan
    found = compare(present)
    assert found.culprit is not None
    assert found.culprit.name == "mlp:swiglu"
    told = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert told["here"]["loss"] is None


def test_another_model_cannot_be_compared() -> None:
    other = record()
    other.parameters["head.weight"] = summarise(torch.ones(2))
    with pytest.raises(
        ConfigError, match=r"another model: 1 parameters differ .* 'head.weight' \(absent recorded"
    ):
        compare(other)


def test_the_text_has_the_worst_calls_and_the_kernels_that_fail() -> None:
    found = compare(record(kernel=1e-3, mlp=1e-3), replayed(800.0, 1.0))
    lines = as_text(found).splitlines()
    assert lines[0] == verdict(found)
    assert [line.split()[0] for line in lines if line.startswith("  mlp")] == ["mlp", "mlp:swiglu"]
    assert "    mlp:swiglu (fast): forward 800 times" in lines
    assert any(line.split() == ["loss", "2", "2"] for line in lines)


def test_json_says_the_same() -> None:
    found = compare(record(kernel=1e-3), replayed(800.0, 1.0))
    told = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert told["agrees"] is False
    assert told["culprit"] == {
        "name": "mlp:swiglu",
        "phase": "forward",
        "is_kernel": True,
        "row": "fast",
        "ratio": 800.0,
    }
    assert told["calls"][0]["name"] == "mlp:swiglu"
    assert told["calls"][0]["departs"]
    assert told["kernels"][0]["deviations"][0]["limit"] == 4.0


def test_a_failure_has_the_place_of_its_call() -> None:
    (early,) = replayed(9.0, 1.0)
    late = Replay("(optimizer):adamw", "adamw", "fast", (replace(early.deviations[0], phase=UPDATE),))
    found = compare(record(), [late, early])
    assert found.culprit is not None
    assert found.culprit.name == "mlp:swiglu"
