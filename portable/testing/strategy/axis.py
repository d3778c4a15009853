"""Every axis of a layout, and pairs of them, learns what one process learns, on the device."""

from __future__ import annotations

from typing import Any

import pytest

from portable.device.backend import Backend
from portable.parallel.config import ParallelConfig
from portable.testing.process import run_processes
from portable.testing.requirement import need_devices
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.decoder import MODELS, train

CASE = "portable.testing.strategy.axis"
TP = {"tensor_parallel_degree": 2}
PP = {"pipeline_parallel_degree": 2}
CP = {"context_parallel_degree": 2}
EP = {"expert_parallel_degree": 2}
# name: (model, strategy, settings of parallelism)
AXES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tp": ("dense", "single", TP),
    "pp": ("dense", "single", PP),
    "cp": ("dense", "single", CP),
    "cp, ulysses": ("dense", "single", CP | {"context_parallel_method": "ulysses"}),
    "ep": ("moe", "ddp", EP),
}
PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tp, pp": ("dense", "single", TP | PP),
    "fsdp, tp": ("dense", "fsdp", TP),
    "fsdp, cp": ("dense", "fsdp", CP),
    "fsdp, pp": ("dense", "fsdp", PP),
    "fsdp, ep": ("moe", "fsdp", EP),
}

Reports = list[dict[str, Any]]


def run_alone(backend_name: str) -> dict[str, Any]:
    """Train in one process what the layouts train."""
    runtime = make_runtime(backend_name)
    models = {model for model, _, _ in (AXES | PAIRS).values()}
    return {name: train(runtime, MODELS[name]) for name in sorted(models)}


def run_together(backend_name: str, *layouts: str) -> dict[str, Any]:
    """Train in every layout, one after the other."""
    first = make_runtime(backend_name, "ddp")
    report: dict[str, Any] = {}
    for name in layouts:
        model, strategy, settings = (AXES | PAIRS)[name]
        runtime = with_strategy(first, strategy, parallel=ParallelConfig(**settings))
        report[name] = train(runtime, MODELS[model])
    first.group.close()
    return report


@pytest.fixture(scope="session")
def decoder_alone(backend_name: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("decoder")
    return run_processes(f"{CASE}:run_alone", 1, folder, backend_name, timeout_s=400.0)[0]


@pytest.fixture(scope="session")
def axes(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return _together(backend, 2, tmp_path_factory, AXES)


@pytest.fixture(scope="session")
def pairs(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return _together(backend, 4, tmp_path_factory, PAIRS)


def _together(
    backend: Backend, size: int, folders: pytest.TempPathFactory, layouts: dict[str, Any]
) -> Reports:
    need_devices(backend.name, size)
    folder = folders.mktemp("layouts")
    return run_processes(f"{CASE}:run_together", size, folder, backend.name, *layouts, timeout_s=560.0)


@pytest.mark.parametrize("layout", AXES)
def test_an_axis_learns_what_one_process_learns(
    decoder_alone: dict[str, Any], axes: Reports, layout: str
) -> None:
    _check(decoder_alone[AXES[layout][0]], [report[layout] for report in axes])


@pytest.mark.slow
@pytest.mark.parametrize("layout", PAIRS)
def test_two_axes_learn_what_one_process_learns(
    decoder_alone: dict[str, Any], pairs: Reports, layout: str
) -> None:
    _check(decoder_alone[PAIRS[layout][0]], [report[layout] for report in pairs])


def _check(expected: dict[str, Any], reports: Reports) -> None:
    for found in reports:
        assert found["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert found["weights"].keys() == expected["weights"].keys()
        for name, values in expected["weights"].items():
            assert found["weights"][name] == pytest.approx(values, abs=5e-5), name
        assert found["scored"] == pytest.approx(expected["scored"], abs=1e-4)
