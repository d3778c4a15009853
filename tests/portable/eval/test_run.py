import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from portable.core.artefact import open_artefact
from portable.core.errors import ArtefactError, ConfigError, PortableError
from portable.core.metric import JsonlSink, read_metrics
from portable.core.workspace import Workspace
from portable.engine.config import NativeEngineConfig
from portable.eval.config import EvalConfig
from portable.eval.interval import Estimate
from portable.eval.run import render_table, run_eval, to_scores
from portable.eval.task.arithmetic import Arithmetic
from portable.eval.task.protocol import Sample, TaskResult
from portable.model.tokenizer import Tokenizer
from portable.parallel.runtime import Runtime

ENGINE = NativeEngineConfig(max_batch_size=32)


@pytest.fixture
def two_models(config: EvalConfig, save: Callable[..., Path], tokenizer: Tokenizer) -> EvalConfig:
    return replace(config, models={**config.models, "tuned": str(save(tokenizer, 1))})


def test_every_model_is_scored_on_every_task(
    two_models: EvalConfig, runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    with caplog.at_level(logging.INFO, "portable"):
        artefact = run_eval(two_models, runtime, ENGINE, Workspace(tmp_path, sink))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["models"] == ["base", "tuned"]
    assert [task["name"] for task in scores["tasks"]] == two_models.tasks
    for task, count in zip(scores["tasks"], (12, 10, 100), strict=True):
        for score in task["scores"].values():
            assert score["low"] <= score["value"] <= score["high"]
            assert score["count"] == count
    assert {sample["task"] for sample in scores["samples"]} == {"doc_qa", "arithmetic"}
    assert all(sample["answers"].keys() == {"base", "tuned"} for sample in scores["samples"])
    assert open_artefact(tmp_path, "scores", verify=True).digest == artefact.digest
    assert (
        read_metrics(tmp_path / "metrics.jsonl")[1]["tuned/arithmetic"]
        == artefact.summary["arithmetic"]["tuned"]
    )
    assert not (tmp_path / "scratch").exists()
    assert "Held-out text (bits per byte ↓)" in caplog.text


def test_the_same_settings_give_the_same_scores(two_models: EvalConfig, runtime: Runtime, tmp_path: Path):
    digests = {
        run_eval(two_models, runtime, ENGINE, Workspace(tmp_path / name)).digest for name in ("a", "b", "a")
    }
    assert len(digests) == 1


def test_an_unknown_task_is_found_before_anything_runs(config: EvalConfig, runtime: Runtime, tmp_path: Path):
    with pytest.raises(ConfigError, match="Did you mean 'arithmetic'"):
        run_eval(replace(config, tasks=["doc_qa", "arithmetics"]), runtime, ENGINE, Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_named(config: EvalConfig, runtime: Runtime, tmp_path: Path):
    config = replace(config, models={"base": str(tmp_path / "nothing")})
    with pytest.raises(ArtefactError, match="nothing"):
        run_eval(config, runtime, ENGINE, Workspace(tmp_path / "out"))


def test_samples_of_different_prompts_are_refused(config: EvalConfig):
    results = {
        "arithmetic": {
            name: TaskResult(Estimate(0.5, 2, 0.1, 0.9), [Sample(prompt, "x", "y")])
            for name, prompt in (("a", "1+1="), ("b", "2+2="))
        }
    }
    with pytest.raises(PortableError, match="different prompts to different models"):
        to_scores(["a", "b"], [Arithmetic(config)], results)


def test_the_table_shows_value_interval_and_count():
    score = {"value": 0.25, "low": 0.1234, "high": 0.4567, "count": 40}
    task = {
        "name": "t",
        "title": "Sums",
        "unit": "exact match",
        "higher_is_better": True,
        "scores": {"base": score},
    }
    table = render_table({"models": ["base"], "tasks": [task]})
    assert "Sums (exact match ↑)" in table
    assert "0.250 [0.123, 0.457] n=40" in table
