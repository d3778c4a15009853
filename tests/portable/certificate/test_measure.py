"""What counts as a difference."""

import math

import torch

from portable.certificate.measure import FP32, Line, measure, ratio, relative_difference
from portable.certificate.train import Run
from portable.model.config import ModelConfig
from portable.model.init import initial_value
from portable.parallel.placement import Extent

MODEL = ModelConfig()
WHOLE = torch.arange(1.0, 9.0).view(4, 2)


def _run(loss: float = 2.0, part: slice = slice(0, 4), moved: float = 0.01) -> Run:
    start = initial_value(MODEL, "norm.weight", (4,), 0)
    own = WHOLE[part]
    return Run(
        losses=[loss],
        norms=[1.0],
        gradients={"w": (Extent((part.start, 0), tuple(own.shape)), own)},
        weights={"norm.weight": start + moved},
        scores=torch.zeros(3),
    )


def _by_what(found: Run) -> dict[str, Line]:
    return {line.what: line for line in measure(_run(), found, MODEL, FP32, rank=1)}


def test_a_rank_compares_its_own_part_of_a_gradient() -> None:
    assert all(line.agrees for line in _by_what(_run(part=slice(2, 4))).values())
    wrong = _run(part=slice(2, 4))
    wrong.gradients["w"] = (Extent((0, 0), (2, 2)), WHOLE[2:4])  # the right numbers in the wrong place
    line = _by_what(wrong)["gradients of the first step"]
    assert (line.agrees, line.of, line.rank, line.difference) == (False, "w", 1, 0.5)


def test_a_number_that_is_none_departs() -> None:
    assert not _by_what(_run(loss=math.nan))["loss of 1 steps"].agrees
    assert relative_difference(torch.ones(2), torch.tensor([1.0, math.nan]), torch.ones(2)) == math.inf


def test_weights_differ_relative_to_what_the_steps_changed() -> None:
    line = _by_what(_run(moved=0.0101))["weights after 1 steps"]
    assert abs(line.difference - 0.01) < 1e-4
    assert not line.agrees


def test_a_weight_that_is_missing_departs() -> None:
    found = _run()
    found.weights.clear()
    assert not _by_what(found)["weights after 1 steps"].agrees


def test_the_factor_of_a_mean_in_the_place_of_a_sum_is_told() -> None:
    assert ratio(WHOLE, WHOLE / 4) == 0.25
