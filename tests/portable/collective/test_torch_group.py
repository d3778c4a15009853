"""What TorchGroup does beyond the contract: poor transports, torch's coalescing hazard, closing.

That it computes right and names who fails it is in tests/contract.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from portable.testing.collective.expected import expected
from tests.architecture.tree import SourceTree
from tests.processes import run_processes

CASES = "tests.portable.collective.case_torch_group"
FORBIDDEN = "_coalescing_manager"


@pytest.mark.parametrize("which", ["sums", "gathers", "no_broadcast"])
def test_every_stand_in_gives_what_the_native_call_does(tmp_path: Path, which: str):
    results = run_processes(f"{CASES}:poor", 3, tmp_path, which)
    for rank, result in enumerate(results):
        right = expected(rank, 3)
        assert {name: result[name] for name in right} == right
    emulated = {name for name, how in results[0]["resolution"].items() if how.startswith("emulated")}
    assert (
        emulated
        == {
            "sums": {"reduce_scatter", "all_gather", "all_to_all", "scatter", "mean", "premul_sum"},
            "gathers": {"all_reduce", "gather", "sum", "mean", "max", "min", "product", "premul_sum"},
            "no_broadcast": {"broadcast", "premul_sum"},
        }[which]
    )


def test_formats_that_a_transport_lacks_travel_as_bytes_and_add_up_in_wider_ones(tmp_path: Path):
    for result in run_processes(f"{CASES}:poor", 2, tmp_path, "sums"):
        resolution, found = result["resolution"], result["dtypes"]
        assert resolution["float32"] == "moved as it is, reduced as it is"
        assert resolution["bfloat16"] == "moved as bytes, reduced as float32"
        assert resolution["bool"] == "moved as bytes, reduced as int32"
        assert resolution["int8"] == "moved as bytes, reduced as int32"
        assert resolution["float64"] == "the communicator 'gloo' has no float64"
        for name in ("bf16", "fp16", "fp8_e4m3", "fp8_e5m2", "int8"):
            assert found[name]["sum"] == found[name]["scatter"] == [2.0] * 3
            assert found[name]["broadcast"] == found[name]["to_all"] == [1.0] * 3
        for name in ("fp64", "complex64", "int64"):
            assert found[name]["sum"] == found[name]["broadcast"] == "CapabilityError"


def test_what_a_capability_does_not_list_is_refused_by_name(tmp_path: Path):
    for told in run_processes(f"{CASES}:without", 2, tmp_path):
        assert told.pop("sum") == "[2.0, 2.0]"
        assert told["max"] == (
            "CapabilityError: cannot reduce max of float32 (2) on axis 'world': the communicator 'gloo' has "
            "no max of float32; its reductions: sum"
        )
        for name, lacks in (("gather", "gather"), ("send", "send_recv"), ("scatter", "reduce_scatter")):
            assert told[name].endswith(f"on axis 'world': the communicator 'gloo' has no {lacks}")


def test_our_name_of_a_communicator_may_differ_from_torchs(tmp_path: Path):
    assert run_processes(f"{CASES}:named", 2, tmp_path) == [["fabric", 3, "world"]] * 2


def test_torchs_coalescing_hazard_exists_and_does_not_reach_our_group(tmp_path: Path):
    """The canary: where torch's own all_reduce gives 2.0 here, the hazard is mended and may be forgotten."""
    for result in run_processes(f"{CASES}:hazard", 2, tmp_path):
        assert "does not implement startCoalescing" in result.pop("error")
        assert result.pop("torch") == 1.0, "torch has mended its coalescing context; drop this canary"
        assert result == {
            "all_reduce": 2.0,
            "reduce_scatter": 2.0,
            "all_gather": [1.0, 1.0],
            "many": [2.0, 2.0],
        }


def test_no_call_of_a_group_enters_torchs_coalescing_context(tmp_path: Path):
    assert run_processes(f"{CASES}:entered", 2, tmp_path) == [[0], [0]]


def test_torchs_coalescing_context_is_named_nowhere_in_the_sources():
    tree = SourceTree(Path(__file__).parents[3])
    files = [*tree.files("portable"), *tree.files("backends")]
    assert any(file.name == "portable/collective/transport.py" for file in files)
    assert [file.name for file in files if FORBIDDEN in file.text] == []


def test_without_the_comparison_everything_computes_alike(tmp_path: Path):
    for rank, result in enumerate(run_processes(f"{CASES}:unchecked", 2, tmp_path)):
        assert result.pop("calls") == "not compared: communicator.check_calls"
        assert result == expected(rank, 2)


def test_a_closed_group_says_so_and_leaves_the_world_open(tmp_path: Path):
    for told in run_processes(f"{CASES}:after_close", 2, tmp_path):
        assert told[0] == "CollectiveError: the group on axis 'tp' is closed; make another one"
        assert told[1] == "2.0"
        assert told[2] == "CollectiveError: the group on axis 'world' is closed; make another one"


def test_errors_that_are_not_the_transports_pass_unchanged(tmp_path: Path):
    for told in run_processes(f"{CASES}:passes", 2, tmp_path):
        assert told == [
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
            "ValueError: timed out",
            "2.0",
        ]
