import pytest

from portable.job.change import changed_settings, may_change

BEFORE = "steps: 3\nparallel:\n  tensor_parallel_degree: 1\nmodel:\n  rope: {theta: 1.0}\n"


def test_differences_are_named_by_their_path() -> None:
    after = BEFORE.replace("degree: 1", "degree: 2").replace("1.0", "2.0") + "seed: 1\n"
    assert changed_settings(BEFORE, after) == ["model.rope.theta", "parallel.tensor_parallel_degree", "seed"]
    assert changed_settings(BEFORE, BEFORE) == []


@pytest.mark.parametrize("name", ["parallel.tensor_parallel_degree", "strategy.name", "hardware", "sim.like"])
def test_where_and_how_may_change(name: str) -> None:
    assert may_change(name)


@pytest.mark.parametrize("name", ["steps", "model.rope.theta", "seed", "global_batch_size", "precision.name"])
def test_what_is_computed_may_not(name: str) -> None:
    assert not may_change(name)
