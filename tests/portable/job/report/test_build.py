"""What the report gathers from a run's folders."""

import json
import shutil
from pathlib import Path
from typing import Any

from portable.job.report import build
from portable.job.report.build import build_report

Run = tuple[Path, dict[str, Any]]


def detail(report: dict[str, Any], verb: str) -> dict[str, Any]:
    """Return a stage's detail."""
    return next(stage["detail"] for stage in report["stages"] if stage["verb"] == verb)


def test_report_holds_the_manifest_and_sums_the_cost(run: Run):
    report = build_report(*run)
    assert report["recipe"] == "quickstart"
    assert [stage["verb"] for stage in report["stages"]] == [
        "data",
        "pretrain",
        "synth",
        "sft",
        "rl",
        "eval",
        "export",
    ]
    assert report["total_time_s"] == sum(stage["time_s"] for stage in run[1]["stages"])
    assert report["peak_memory_bytes"] == 1_704_000_000
    assert report["elapsed_s"] == 403.0


def test_report_survives_json(run: Run):
    report = build_report(*run)
    assert json.loads(json.dumps(report)) == report


def test_manifest_is_not_changed(run: Run):
    before = json.dumps(run[1])
    build_report(*run)
    assert json.dumps(run[1]) == before


def test_details_come_from_each_stages_files(run: Run):
    report = build_report(*run)
    assert detail(report, "data")["funnel"]["documents_in"] == 18204
    assert detail(report, "pretrain")["metrics"][39]["heldout_bits_per_byte"] > 2
    assert detail(report, "sft")["metrics"][0]["loss"] > 4
    assert detail(report, "synth")["samples"][0] == {
        "question": "What does str.join do?",
        "answer": "Concatenate any number of strings.",
        "document_id": "str.join",
    }
    assert detail(report, "synth")["teacher"] == "extractive"
    assert [seed["seed"] for seed in detail(report, "rl")["seeds"]] == [0, 1, 2]
    assert len(detail(report, "eval")["tasks"]) == 3
    assert detail(report, "export") == {}


def test_wall_clock_of_single_steps_is_left_out(run: Run):
    assert all("time" not in row for row in detail(build_report(*run), "pretrain")["metrics"])


def test_missing_files_leave_their_part_out(run: Run):
    run_dir, manifest = run
    for row in manifest["stages"]:
        for name in (
            "funnel.json",
            "metrics.jsonl",
            "summary.json",
            "samples.json",
            "curves.json",
            "scores.json",
        ):
            (Path(row["artefact"]) / name).unlink(missing_ok=True)
    report = build_report(run_dir, manifest)
    assert all(stage["detail"] == {} for stage in report["stages"])


def test_artefact_is_found_below_the_run_and_by_the_runs_link(run: Run):
    run_dir, manifest = run
    row = manifest["stages"][0]
    shutil.copytree(row["artefact"], run_dir / "store" / "data-1")
    row["artefact"] = "store/data-1"
    assert detail(build_report(run_dir, manifest), "data")
    row["artefact"] = "gone/data-1"
    assert detail(build_report(run_dir, manifest), "data") == {}
    (run_dir / "data").symlink_to(run_dir / "store" / "data-1")
    assert detail(build_report(run_dir, manifest), "data")


def test_stage_of_an_unknown_verb_is_kept_without_detail(run: Run):
    run_dir, manifest = run
    manifest["stages"][0]["verb"] = "distil"
    assert build_report(run_dir, manifest)["stages"][0]["detail"] == {}


def test_long_samples_are_cut_and_few_are_kept(run: Run):
    report = build_report(*run)
    steps = detail(report, "data")["funnel"]["steps"]
    longest = next(step for step in steps if step["op"] == "symbol_filter")["samples"][0]["text"]
    assert longest.endswith(" …")
    assert len(longest) <= 322


def test_long_curves_are_thinned_but_keep_evaluations_and_the_end():
    rows: list[dict[str, float | None]] = [{"step": n, "loss": 1.0} for n in range(1, 10_001)]
    rows[12]["heldout_bits_per_byte"] = 2.0
    kept = build._thin(rows)
    assert len(kept) <= 1002
    assert rows[12] in kept
    assert kept[-1]["step"] == 10_000
    assert build._thin(rows[:500]) == rows[:500]


def test_models_stand_in_the_order_in_which_they_were_made(run: Run):
    file = Path(next(row["artefact"] for row in run[1]["stages"] if row["verb"] == "eval")) / "scores.json"
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    scores = detail(build_report(*run), "eval")
    tables = [task["scores"] for task in scores["tasks"]] + [row["answers"] for row in scores["samples"]]
    assert all(list(table) == ["base", "sft", "rl"] for table in tables)
