"""The eval stage: several models, the same tasks, one table with counts and intervals."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from portable.core.artefact import Artefact, seal
from portable.core.errors import PortableError
from portable.core.storage import write_json
from portable.core.workspace import Workspace
from portable.engine.config import EngineConfig
from portable.eval.config import EvalConfig
from portable.eval.task.protocol import TASKS, Subject, Task, TaskResult
from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)
_DIGITS = 6  # of scores.json: what float32 can tell apart, and no more
Results = Mapping[str, Mapping[str, TaskResult]]  # task name to model name to result


def run_eval(config: EvalConfig, runtime: Runtime, engine: EngineConfig, workspace: Workspace) -> Artefact:
    """Score every model on every task and seal ``scores.json``.

    Raises: ConfigError for an unknown task, ArtefactError or DataError if a model or a task's material is
    missing; both before any model is run.
    """
    tasks: list[Task] = [TASKS.get(name)(config) for name in config.tasks]
    results: dict[str, dict[str, TaskResult]] = {task.name: {} for task in tasks}
    scratch = workspace.dir / "scratch"
    for place, (name, path) in enumerate(config.models.items()):
        subject = Subject(name, Path(path), runtime, engine, scratch)
        for task in tasks:
            result = task.run(subject)
            results[task.name][name] = result
            estimate = result.estimate
            logger.info("%s, %s: %.4f %s", name, task.name, estimate.value, task.unit)
            workspace.metrics.write(place, {f"{name}/{task.name}": estimate.value})
    if runtime.group.rank == 0:
        scores = to_scores(list(config.models), tasks, results)
        write_json(workspace.dir / "scores.json", scores)
        logger.info("scores, with 95%% intervals\n%s", render_table(scores))
        shutil.rmtree(scratch, ignore_errors=True)
        artefact = seal(workspace.dir, "scores", ["scores.json"], _summary(scores))
    else:
        artefact = None
    return runtime.group.broadcast_object(artefact)


def to_scores(
    models: Sequence[str], tasks: Sequence[Task], results: Results
) -> dict[str, Any]:  # Any: JSON values
    """Lay the results out as ``scores.json`` has them.

    Raises: PortableError if models were shown different prompts, which would make the samples lie.
    """
    return {
        "models": list(models),
        "tasks": [
            {
                "name": task.name,
                "title": task.title,
                "unit": task.unit,
                "higher_is_better": task.higher_is_better,
                "scores": {model: _to_json(results[task.name][model]) for model in models},
            }
            for task in tasks
        ],
        "samples": [
            sample for task in tasks for sample in _side_by_side(task.name, models, results[task.name])
        ],
    }


def render_table(scores: Mapping[str, Any]) -> str:  # Any: JSON values
    """Return the table as text: a row a task, a column a model."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task")
    for model in scores["models"]:
        table.add_column(model, justify="right")
    for task in scores["tasks"]:
        arrow = "↑" if task["higher_is_better"] else "↓"
        cells = [
            f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] n={score['count']}"
            for score in (task["scores"][model] for model in scores["models"])
        ]
        table.add_row(
            f"{task['title']} ({task['unit']} {arrow})", *(cell.replace("[", "\\[") for cell in cells)
        )
    buffer = io.StringIO()
    Console(file=buffer, width=200, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).strip("\n")


def _to_json(result: TaskResult) -> dict[str, float]:
    estimate = result.estimate
    return {
        "value": round(estimate.value, _DIGITS),
        "count": estimate.count,
        "low": round(estimate.low, _DIGITS),
        "high": round(estimate.high, _DIGITS),
    }


def _side_by_side(
    task: str, models: Sequence[str], results: Mapping[str, TaskResult]
) -> list[dict[str, Any]]:  # Any: JSON values
    rows: list[dict[str, Any]] = []
    shown = [results[model].samples for model in models]
    for samples in zip(*shown, strict=True):
        if len({(sample.prompt, sample.reference) for sample in samples}) != 1:
            raise PortableError(
                f"task '{task}' showed different prompts to different models; it must draw them by seed alone"
            )
        answers = {model: sample.answer for model, sample in zip(models, samples, strict=True)}
        rows.append(
            {"task": task, "prompt": samples[0].prompt, "reference": samples[0].reference, "answers": answers}
        )
    return rows


def _summary(scores: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
    return {
        task["name"]: {model: score["value"] for model, score in task["scores"].items()}
        for task in scores["tasks"]
    }
