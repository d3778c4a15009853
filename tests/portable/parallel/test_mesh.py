from pathlib import Path

import pytest

from portable.collective.local import LocalGroup
from portable.core.errors import ConfigError
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, Placement, chunk
from portable.testing.process import run_processes


def test_four_ranks_find_each_other_and_put_tensors_together(tmp_path: Path) -> None:
    reports = run_processes("tests.portable.parallel.case_mesh:run", 4, tmp_path)
    assert [report["tp"] for report in reports] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [report["data"] for report in reports] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [report["inner"] for report in reports] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [report["outer"] for report in reports] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [report["empty"] for report in reports] == [[1, 2], [0, 2], [0, 2], [0, 2]]
    assert [report["again"] for report in reports] == [2.0, 4.0, 2.0, 4.0]
    for report in reports:
        assert (report["same"], report["world"], report["alone"]) == (True, True, 1)
        assert report["gathered"] == {"rows": True, "both": True, "none": True}
        assert (report["grid"], report["names"]) == ([[0, 1], [2, 3]], ["fsdp", "tp"])


def test_an_unknown_axis_gets_a_suggestion() -> None:
    mesh = Mesh(Layout(), LocalGroup(), "cpu")
    with pytest.raises(ConfigError, match=r"no axis 'tps'. Did you mean 'tp'"):
        mesh.group("tps")


def test_a_layout_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs 2 processes, but there are 1"):
        Mesh(Layout(tp=2), LocalGroup(), "cpu")


def test_a_grid_must_have_as_many_places_as_ranks() -> None:
    with pytest.raises(ConfigError, match="no grid of 2 × 2"):
        Mesh(Layout(), LocalGroup(), "cpu").fold("tp", ("a", "b"), (2, 2))


@pytest.mark.parametrize(("size", "count"), [(7, 3), (2, 4), (0, 2), (8, 4)])
def test_chunks_are_those_of_torch_and_cover_everything(size: int, count: int) -> None:
    parts = [chunk(size, count, index) for index in range(count)]
    assert sum(length for _, length in parts) == size
    assert [start for start, _ in parts] == [min(i * -(-size // count), size) for i in range(count)]


def test_a_placement_remembers_cuts_and_sums() -> None:
    placement = Placement((4, 4)).cut(0, "tp").summed_over("pp_ends")
    assert placement.cuts == (Cut(0, "tp"),)
    assert placement.partial == ("pp_ends",)
