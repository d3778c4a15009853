"""Recipes over stages that only write files: what is run, reused, continued, refused."""

from pathlib import Path

import pytest

from portable.config.load import load
from portable.core.artefact import Artefact, seal
from portable.core.errors import ConfigError
from portable.core.workspace import Workspace
from portable.job import recipe
from portable.job.machine import Machine
from portable.job.recipe import check_recipe, run_recipe
from portable.job.stage import Stage

CALLS: list[str] = []
FAIL_ONCE: list[str] = []


def make_data(config, workspace: Workspace) -> Artefact:
    return _make("data", config.seed, workspace)


def make_synth(config, workspace: Workspace) -> Artefact:
    return _make("synth", (Path(config.data) / "out.txt").read_text(), workspace)


def _make(name: str, content: object, workspace: Workspace) -> Artefact:
    CALLS.append(name)
    workspace.dir.mkdir(parents=True, exist_ok=True)
    part = workspace.dir / "part.txt"
    part.write_text(part.read_text() + "+" if part.is_file() else "+")
    workspace.metrics.write(1, {"loss": 1.0})
    if name in FAIL_ONCE:
        FAIL_ONCE.remove(name)
        raise RuntimeError("cut short")
    (workspace.dir / "out.txt").write_text(f"{name} of {content}")
    return seal(workspace.dir, "corpus", ["out.txt"], {"documents": 1})


@pytest.fixture
def job(tmp_path, monkeypatch):
    stages = {name: Stage(name, f"{__name__}:make_{name}", (), ("core",)) for name in ("data", "synth")}
    monkeypatch.setattr(recipe, "stage_of", lambda name: stages[name])
    monkeypatch.setattr("portable.job.stage.load_target", lambda target: globals()[target.partition(":")[2]])
    CALLS.clear()
    FAIL_ONCE.clear()
    return load("run", ["recipe=quickstart", "stages=[data,synth]", f"store={tmp_path / 'store'}"])


def test_a_second_run_computes_nothing(job) -> None:
    first = run_recipe(job, Machine(job))
    second = run_recipe(job, Machine(job))
    assert CALLS == ["data", "synth"]
    assert [result.reused for result in first] == [False, False]
    assert [result.reused for result in second] == [True, True]
    assert [result.artefact for result in first] == [result.artefact for result in second]
    assert all(result.time_s == again.time_s for result, again in zip(first, second, strict=True))


def test_a_change_runs_what_depends_on_it_and_nothing_else(job) -> None:
    run_recipe(job, Machine(job))
    job.synth.seed += 1
    run_recipe(job, Machine(job))
    assert CALLS == ["data", "synth", "synth"]
    job.data.seed += 1
    run_recipe(job, Machine(job))
    assert CALLS[3:] == ["data", "synth"]


def test_a_stage_that_was_cut_short_continues_in_its_folder(job) -> None:
    FAIL_ONCE.append("synth")
    with pytest.raises(RuntimeError, match="cut short"):
        run_recipe(job, Machine(job))
    results = run_recipe(job, Machine(job))
    assert CALLS == ["data", "synth", "synth"]
    assert (results[1].artefact.path / "part.txt").read_text() == "++"


def test_a_damaged_artefact_is_made_again(job) -> None:
    first = run_recipe(job, Machine(job))
    (first[0].artefact.path / "out.txt").write_text("changed by hand")
    again = run_recipe(job, Machine(job))
    assert CALLS == ["data", "synth", "data"]
    assert again[0].artefact.digest == first[0].artefact.digest
    assert not again[0].reused


def test_metrics_and_cost_stand_beside_the_artefact(job) -> None:
    result = run_recipe(job, Machine(job))[0]
    assert (result.artefact.path / "metrics.jsonl").is_file()
    assert result.time_s > 0
    assert result.peak_memory_bytes > 0
    row = result.to_json()
    assert row["name"] == "data"
    assert row["summary"] == {"documents": 1}


def test_wrong_recipes_are_refused_before_anything_runs(job) -> None:
    with pytest.raises(ConfigError, match="no stages"):
        check_recipe(load("run", ["recipe=quickstart", "stages=[]"]))
    with pytest.raises(ConfigError, match="'@data', which is not made before"):
        check_recipe(load("run", ["recipe=quickstart", "stages=[synth]"]))
    with pytest.raises(ConfigError, match="no settings"):
        check_recipe(load("run", ["recipe=quickstart", "stages=[data,synth]", "synth=null"]))
    assert CALLS == []


def test_an_unknown_stage_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'pretrain'"):
        check_recipe(load("run", ["recipe=quickstart", "stages=[data,pretrian]"]))
