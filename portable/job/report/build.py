"""Gather what a run left behind into one JSON value: the content of ``report.json``, and all the page shows.

A stage's files are read where its artefact lies. A file that is not there leaves its part of the report out:
a recipe without a stage, or a stage that writes less, still gets its page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from portable.core.artefact import SEAL
from portable.core.metric import read_metrics
from portable.core.storage import read_json

_MAX_POINTS = 1000  # of a curve: more than a page can show
_NUM_PAIRS = 6
_NUM_DROPPED = 3
_MAX_SAMPLE_CHARS = 320

Detail = dict[str, Any]  # Any: JSON values, as the stages wrote them


def build_report(run_dir: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:  # Any: JSON values
    """Return the manifest with, for each stage, a ``detail``: what its artefact's files say.

    ``total_time_s`` adds up the stages, those reused from an earlier run at what they cost then.
    """
    stages = [_stage(run_dir, row) for row in manifest["stages"]]
    peaks = [stage["peak_memory_bytes"] for stage in stages if stage["peak_memory_bytes"]]
    return {
        **{key: value for key, value in manifest.items() if key != "stages"},
        "elapsed_s": _elapsed_s(manifest),
        "total_time_s": sum(stage["time_s"] for stage in stages),
        "peak_memory_bytes": max(peaks, default=0),
        "stages": stages,
    }


def _stage(run_dir: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    folder = _folder(run_dir, row)
    read = _READERS.get(row["verb"])
    return {**row, "detail": read(folder) if read and folder else {}}


def _folder(run_dir: Path, row: Mapping[str, Any]) -> Path | None:
    """Find the artefact by its own path, below the run, or by the link that the run keeps to it."""
    path = Path(row["artefact"])
    places = (path, run_dir / path, run_dir / row["name"])
    return next((place for place in places if (place / SEAL).is_file()), None)


def _elapsed_s(manifest: Mapping[str, Any]) -> float:
    started, finished = (datetime.fromisoformat(manifest[key]) for key in ("started", "finished"))
    return (finished - started).total_seconds()


def _data(folder: Path) -> Detail:
    funnel = _json(folder / "funnel.json")
    if not funnel:
        return {}
    for step in funnel["steps"]:
        step["samples"] = [_cut_sample(sample) for sample in step["samples"][:_NUM_DROPPED]]
    return {"funnel": funnel}


def _cut_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    text = sample["text"]
    return {
        **sample,
        "text": text if len(text) <= _MAX_SAMPLE_CHARS else text[:_MAX_SAMPLE_CHARS].rstrip() + " …",
    }


def _training(folder: Path) -> Detail:
    rows = [
        {key: value for key, value in row.items() if key != "time"}
        for row in read_metrics(folder / "metrics.jsonl")
    ]
    return {"metrics": _thin(rows)} if rows else {}


def _thin(rows: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Keep about ``_MAX_POINTS`` rows: evenly spaced ones, the last, and all that hold an evaluation."""
    stride = -(-len(rows) // _MAX_POINTS)
    usual = set[str].intersection(*(set(row) for row in rows))
    return [
        row for index, row in enumerate(rows) if index % stride == 0 or row is rows[-1] or set(row) > usual
    ]


def _synth(folder: Path) -> Detail:
    summary, samples = _json(folder / "summary.json"), _json(folder / "samples.json")
    if not summary or not samples:
        return {}
    chosen = samples[:: max(1, len(samples) // _NUM_PAIRS)][:_NUM_PAIRS]
    return {**summary, "samples": [_question_and_answer(sample) for sample in chosen]}


def _question_and_answer(sample: Mapping[str, Any]) -> dict[str, str]:
    said = {turn["role"]: turn["content"] for turn in sample["messages"]}
    return {
        "question": said["user"],
        "answer": said["assistant"],
        "document_id": sample["metadata"]["document_id"],
    }


def _rl(folder: Path) -> Detail:
    return {**_training(folder), **(_json(folder / "curves.json") or {})}


def _eval(folder: Path) -> Detail:
    """Read the scores and put the models of every table into the order in which they were made."""
    scores = _json(folder / "scores.json")
    if not scores:
        return {}
    for table, key in ((scores["tasks"], "scores"), (scores["samples"], "answers")):
        for row in table:
            row[key] = {model: row[key][model] for model in scores["models"] if model in row[key]}
    return scores


def _json(path: Path) -> Any:  # Any: JSON value
    return read_json(path) if path.is_file() else None


_READERS: dict[str, Callable[[Path], Detail]] = {
    "data": _data,
    "pretrain": _training,
    "synth": _synth,
    "sft": _training,
    "rl": _rl,
    "eval": _eval,
}
