"""What several processes learn together is what one process learns alone."""

from __future__ import annotations

from typing import Any

import pytest

from portable.device.backend import Backend
from portable.testing.process import run_processes
from portable.testing.requirement import need_devices

CASE = "portable.testing.strategy.case:run"
SPREAD = ("ddp", "fsdp")


@pytest.fixture(scope="session")
def alone(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("single")
    return run_processes(CASE, 1, folder, backend_name, "single", str(folder))[0]


@pytest.fixture(scope="session", params=SPREAD)
def spread(
    request: pytest.FixtureRequest, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    assert backend.device().capability().strategies[request.param] == ""
    need_devices(backend.name, 2)
    folder = tmp_path_factory.mktemp(request.param)
    return run_processes(CASE, 2, folder, backend.name, request.param, str(folder))


def test_losses_and_gradient_norms_are_those_of_one_process(
    alone: dict[str, Any], spread: list[dict[str, Any]]
) -> None:
    for report in spread:
        assert report["losses"] == pytest.approx(alone["losses"], abs=2e-6)
        assert report["norms"] == pytest.approx(alone["norms"], rel=1e-5)


def test_weights_are_those_of_one_process(alone: dict[str, Any], spread: list[dict[str, Any]]) -> None:
    for report in spread:
        assert report["weights"].keys() == alone["weights"].keys()
        for name, values in alone["weights"].items():
            assert report["weights"][name] == pytest.approx(values, abs=5e-5), name


def test_all_ranks_hold_the_same_weights(spread: list[dict[str, Any]]) -> None:
    assert len({report["hash"] for report in spread}) == 1


def test_gradients_are_gone_after_the_step(alone: dict[str, Any], spread: list[dict[str, Any]]) -> None:
    assert all(report["norm_after"] == 0.0 for report in (alone, *spread))


def test_the_description_says_what_was_set_up(
    backend: Backend, alone: dict[str, Any], spread: list[dict[str, Any]]
) -> None:
    assert alone["described"] == {"name": "single", "world_size": 1}
    for report in spread:
        name = report["described"]["name"]
        assert report["described"]["world_size"] == 2
        assert report["described"]["communicator"] == backend.device().capability().communicator
        assert report["wrapper"] == {"ddp": "DistributedDataParallel", "fsdp": "FSDPTinyModel"}[name]


def test_only_fsdp_divides_the_parameters(alone: dict[str, Any], spread: list[dict[str, Any]]) -> None:
    whole = alone["local_numel"]
    held = [report["local_numel"] for report in spread]
    if spread[0]["described"]["name"] == "ddp":
        assert held == [whole, whole]
    else:
        assert sum(held) == whole
        assert max(held) < 0.6 * whole
