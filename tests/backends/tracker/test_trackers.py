"""The trackers' adapters, against stand-ins that keep the real packages' signatures."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from backends.tracker.mlflow import open_mlflow
from backends.tracker.package import run_id
from backends.tracker.swanlab import open_swanlab
from backends.tracker.wandb import open_wandb
from portable.core.errors import BackendUnavailable

SETTINGS = {"seed": 0, "optim": {"lr": 0.1}}
VALUES = {"loss": 2.0, "mfu": None}


class Run:
    """A run of wandb or swanlab."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.finished = False

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, data))

    def finish(self) -> None:
        self.finished = True


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("package", "open_sink", "place"), [("wandb", open_wandb, "dir"), ("swanlab", open_swanlab, "log_dir")]
)
def test_a_run_is_known_by_its_folder_and_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, open_sink: Any, place: str
) -> None:
    runs: list[Run] = []

    def init(**settings: Any) -> Run:
        runs.append(Run(settings))
        return runs[-1]

    stand_in(monkeypatch, package, init=init)
    sink = open_sink(tmp_path, "p", SETTINGS)
    sink.write(7, VALUES)
    sink.close()
    (run,) = runs
    assert run.rows == [(7, {"loss": 2.0})]
    assert run.finished
    assert run.settings.pop(place).startswith(str(tmp_path))
    assert run.settings == {
        "project": "p",
        "name": tmp_path.name,
        "id": run_id(tmp_path),
        "config": SETTINGS,
        "resume": "allow",
    }


class Client:
    """MLflow's client, its runs in memory."""

    runs: dict[str, SimpleNamespace]

    def __init__(self) -> None:
        self.experiments: dict[str, SimpleNamespace] = {}
        self.runs = {}

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return self.experiments.get(name)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = SimpleNamespace(experiment_id="1")
        return "1"

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[Any]:
        return [run for run in self.runs.values() if f"'{run.tags['portable.run_id']}'" in filter_string]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> SimpleNamespace:
        name = f"run-{len(self.runs)}"
        info = SimpleNamespace(run_id=name)
        self.runs[name] = SimpleNamespace(info=info, tags=tags, params={}, rows=[], status="RUNNING")
        return self.runs[name]

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].status = status

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        self.runs[run].rows += [(metric.step, metric.key, metric.value) for metric in metrics]
        self.runs[run].params |= {param.key: param.value for param in params}

    def set_terminated(self, run: str) -> None:
        self.runs[run].status = "FINISHED"


def test_mlflow_keeps_settings_flat_and_goes_on_with_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    client = Client()
    entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
    )
    stand_in(monkeypatch, "mlflow", MlflowClient=lambda: client, entities=entities)
    for step in (1, 2):
        sink = open_mlflow(tmp_path, "p", SETTINGS)
        sink.write(step, VALUES)
        assert client.runs["run-0"].status == "RUNNING"
        sink.close()
    (run,) = client.runs.values()
    assert run.params == {"seed": "0", "optim.lr": "0.1"}
    assert run.rows == [(1, "loss", 2.0), (2, "loss", 2.0)]
    assert run.status == "FINISHED"


@pytest.mark.parametrize(
    ("package", "open_sink"), [("wandb", open_wandb), ("swanlab", open_swanlab), ("mlflow", open_mlflow)]
)
def test_a_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, open_sink: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendUnavailable, match=rf"pip install 'portable-llm\[{package}\]'"):
        open_sink(tmp_path, "p", SETTINGS)
