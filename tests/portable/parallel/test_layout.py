from itertools import product

import pytest

from portable.core.errors import ConfigError
from portable.parallel.layout import AXES, EXPERT, JOINT, Layout


def test_tp_neighbours_are_next_to_each_other_and_stages_farthest() -> None:
    layout = Layout(pp=2, dp=2, tp=2)
    assert layout.parts("tp") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert layout.parts("dp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert layout.parts("pp") == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize("degrees", list(product((1, 2), repeat=5)))
def test_every_rank_is_in_exactly_one_group_of_every_axis(degrees: tuple[int, ...]) -> None:
    layout = Layout(**dict(zip(AXES, degrees, strict=True)))
    for axis in (*AXES, *JOINT, *EXPERT):
        parts = layout.parts(axis)
        assert sorted(rank for part in parts for rank in part) == list(range(layout.world_size))
        assert {len(part) for part in parts} == {layout.size(axis)}


def test_experts_are_folded_onto_the_ranks_of_a_stage() -> None:
    layout = Layout(fsdp=2, tp=2, ep=2)
    assert layout.parts("ep") == [[0, 1], [2, 3]]
    assert layout.parts("edp") == [[0, 2], [1, 3]] == layout.parts("efsdp")


def test_replicas_of_a_sharded_model_have_their_own_expert_shards() -> None:
    layout = Layout(dp=2, fsdp=4, ep=2)
    assert layout.parts("edp") == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert layout.parts("efsdp") == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_ranks_that_hold_one_parameter_read_all_samples_between_them() -> None:
    layout = Layout(pp=2, dp=2, cp=2, tp=2, ep=4)
    for data, cut in (("data", ("tp",)), ("edp", ("ep",))):
        for part in layout.parts(data):
            fixed = [next(p for p in layout.parts(axis) if part[0] in p).index(part[0]) for axis in cut]
            for rank in part:
                own = [next(p for p in layout.parts(axis) if rank in p).index(rank) for axis in cut]
                assert own == fixed


@pytest.mark.parametrize(("degrees", "legal"), [({"dp": 4, "ep": 3}, "[1, 2, 4]"), ({"tp": 0}, "1 or more")])
def test_impossible_degrees_are_refused_with_the_legal_ones(degrees: dict[str, int], legal: str) -> None:
    with pytest.raises(ConfigError) as error:
        Layout(**degrees)
    assert legal in str(error.value)


def test_experts_do_not_spread_over_replicas_of_a_sharded_model() -> None:
    with pytest.raises(ConfigError, match=r"does not divide fsdp × cp × tp = 2.*\[1, 2\]"):
        Layout(dp=2, fsdp=2, ep=4)


def test_a_layout_reads_as_its_degrees() -> None:
    assert str(Layout(pp=2, tp=2)) == "pp2 × tp2"
    assert str(Layout()) == "one rank"
