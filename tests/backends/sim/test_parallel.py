"""torch's own ways to spread a model, on two simulated devices, against one CPU process."""

import pytest

from portable.testing.process import run_processes
from tests.backends.sim import case_parallel


@pytest.fixture(scope="module")
def expected():
    return case_parallel.on_cpu()


@pytest.fixture(scope="module")
def ranks(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    return run_processes("tests.backends.sim.case_parallel:every_way", 2, folder, str(folder))


@pytest.mark.parametrize("way", ["ddp", "fsdp", "fsdp_offload", "tensor_parallel"])
def test_losses_equal_those_of_one_process(way, ranks, expected):
    for found in ranks:
        assert found[way] == pytest.approx(expected, abs=1e-6)


def test_16_bit_parameters_lose_little(ranks, expected):
    for found in ranks:
        assert found["fsdp_mixed"] == pytest.approx(expected, rel=2e-2)
        assert found["fsdp_mixed"] != pytest.approx(expected, abs=1e-6)


def test_a_sharded_checkpoint_is_saved_and_loaded(ranks):
    for found in ranks:
        assert found["checkpoint"] == {"same": True, "files": 2}


def test_dtensors_are_moved_drawn_and_reduced(ranks):
    first, second = (found["dtensors"] for found in ranks)
    assert first == second
    assert first["replicated"]
    assert first["columns"]
    assert first["rows_differ"]
    assert first["functional"] == [2.0, 2.0]
    assert first["sum"] == 66.0


def test_all_of_it_ran_on_the_devices(ranks):
    assert all(found["fallbacks"] == {} for found in ranks)
