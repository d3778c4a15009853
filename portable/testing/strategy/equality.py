"""What several processes learn together is what one process learns alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.device.backend import Backend
from portable.parallel.build import check_strategy
from portable.testing.process import run_processes
from portable.testing.requirement import need_devices
from portable.testing.runtime import STRATEGIES, make_runtime
from portable.testing.selection import hardware_of
from portable.testing.strategy.case import HSDP

CASE = "portable.testing.strategy.case:run"
OF_TWO = ("ddp", "zero1", "zero2", "zero3", "fsdp", "accelerate")
OTHERS = ("accelerate", "deepspeed")  # other projects' engines, which not every device has
KEEP_WHOLE = ("ddp", "accelerate")
DIVIDE_PARAMETERS = ("zero3", "fsdp", HSDP)

Reports = list[dict[str, Any]]


@pytest.fixture(scope="session")
def alone(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("single")
    return run_processes(CASE, 1, folder, backend_name, str(folder), "single")[0]["single"]


@pytest.fixture(scope="session")
def two(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    need_devices(backend.name, 2)
    folder = tmp_path_factory.mktemp("two")
    usable = [name for name in OF_TWO if not _reason(backend, name)]
    return run_processes(CASE, 2, folder, backend.name, str(folder), *usable, timeout_s=400.0)


@pytest.fixture(scope="session")
def four(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    need_devices(backend.name, 4)
    folder = tmp_path_factory.mktemp("four")
    return run_processes(CASE, 4, folder, backend.name, str(folder), HSDP)


@pytest.fixture(params=(*OF_TWO, pytest.param(HSDP, marks=pytest.mark.slow)))
def spread(request: pytest.FixtureRequest, backend: Backend) -> Reports:
    if request.param in OTHERS and (reason := _reason(backend, request.param)):
        pytest.skip(f"{backend.name} refuses strategy={request.param}, which is tested: {reason}")
    assert _reason(backend, request.param) == ""
    reports = request.getfixturevalue("four" if request.param == HSDP else "two")
    return [report[request.param] for report in reports]


def _reason(backend: Backend, strategy: str) -> str:
    return backend.device().capability().strategies[strategy]


@pytest.mark.parametrize("strategy", OTHERS)
def test_what_another_project_cannot_do_here_is_refused_with_the_reason(
    backend: Backend, strategy: str
) -> None:
    reason = _reason(backend, strategy)
    if not reason:
        check_strategy(STRATEGIES[strategy](), backend.device().capability(), hardware_of(backend))
        return
    with pytest.raises(ConfigError, match=re.escape(reason)):
        make_runtime(backend.name, strategy)


def test_losses_and_gradient_norms_are_those_of_one_process(alone: dict[str, Any], spread: Reports) -> None:
    for report in spread:
        for own, expected in ((report, alone), (report["muon"], alone["muon"])):
            assert own["losses"] == pytest.approx(expected["losses"], abs=2e-6)
            assert own["norms"] == pytest.approx(expected["norms"], rel=1e-5)


def test_weights_are_those_of_one_process(alone: dict[str, Any], spread: Reports) -> None:
    for report in spread:
        for own, expected in ((report, alone), (report["muon"], alone["muon"])):
            assert own["weights"].keys() == expected["weights"].keys()
            for name, values in expected["weights"].items():
                assert own["weights"][name] == pytest.approx(values, abs=5e-6), name


def test_all_ranks_hold_the_same_weights(spread: Reports) -> None:
    assert len({report["hash"] for report in spread}) == 1


def test_a_second_run_is_the_same_to_the_bit(alone: dict[str, Any], spread: Reports) -> None:
    for report in (alone, *spread):
        assert report["again"] == report["hash"]


def test_gradients_are_gone_after_the_step(alone: dict[str, Any], spread: Reports) -> None:
    assert all(report["norm_after"] == 0.0 for report in (alone, *spread))


def test_the_description_says_what_was_set_up(
    backend: Backend, alone: dict[str, Any], spread: Reports
) -> None:
    assert alone["described"] == {"name": "single", "world_size": 1}
    for report in spread:
        described = report["described"]
        assert described["world_size"] == len(spread)
        assert described["communicator"] == backend.device().capability().communicator
        if described["name"] not in KEEP_WHOLE:
            assert described["shard_size"] == 2


def test_what_should_be_divided_is(alone: dict[str, Any], spread: Reports) -> None:
    whole = alone["computing_numel"]
    name = spread[0]["described"]["name"]
    for kind, divides in (
        ("computing_numel", name in DIVIDE_PARAMETERS),
        ("updated_numel", name not in KEEP_WHOLE),
    ):
        held = [report[kind] for report in spread]
        if divides:
            replicas = len(spread) // 2
            assert sum(held) == whole * replicas, kind
            assert max(held) < 0.6 * whole, kind
        else:
            assert held == [whole] * len(spread), kind
