"""The device and its backend, made in a fresh process as a job would make them."""

from portable.testing.process import run_processes

CASE = "tests.backends.sim.case_runtime:device"


def test_like_nothing_else_it_does_all_that_the_processor_does(library, tmp_path):
    (found,) = run_processes(CASE, 1, tmp_path, "")
    assert found["refused"] == ""
    assert found["fp64"] == found["mean"] == "native"
    assert (found["name"], found["arch"], found["title"], found["count"]) == ("sim", "sim", "sim", 2)
    assert found["total_bytes"] == 2**28
    assert found["pinned"]


def test_like_a_chip_it_refuses_what_that_chip_lacks(library, tmp_path):
    (found,) = run_processes(CASE, 1, tmp_path, "ascend_910b")
    assert "ascend_910b" in found["refused"]
    assert found["fp64"] == "none"
    assert found["mean"] == "emulated"
    assert found["title"] == "ascend_910b"
    assert found["communicator"] == "simccl"
