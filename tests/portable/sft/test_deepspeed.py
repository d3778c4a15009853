"""``portable sft strategy=deepspeed``: the engine's JSON is honoured as in pretraining."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portable.core.metric import read_metrics
from portable.testing.process import run_processes

pytest.importorskip("deepspeed", reason="strategy=deepspeed needs the package")
CALL = "tests.portable.parallel.strategies.deepspeed.case_command:call"
SIZES = ("steps=4", "seq_len=96", "micro_batch_size=2", "global_batch_size=8", "num_questions=2")
FILE = {"train_batch_size": 8, "gradient_clipping": 1.0, "zero_optimization": {"stage": 3}}


def sft(folder: Path, *words: str) -> list[tuple[int, str]]:
    fixed = (
        "max_new_tokens=4",
        "arithmetic_format_examples=0",
        "kernel.self_test=off",
        "checkpoint.every_steps=0",
    )
    return run_processes(
        CALL, 2, folder, "sft", *SIZES, *fixed, *words, f"output_dir={folder / 'out'}", timeout_s=300.0
    )


@pytest.mark.slow
def test_a_stage_trains_what_ddp_trains(model_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    where = (f"model_path={model_dir}", f"data={data_dir}")
    (tmp_path / "ds.json").write_text(json.dumps(FILE))
    (tmp_path / "other.json").write_text(json.dumps(FILE | {"train_batch_size": 6}))
    for name, words in (
        ("ddp", ("strategy=ddp",)),
        ("engine", ("strategy=deepspeed", f"strategy.config_file={tmp_path / 'ds.json'}")),
    ):
        (tmp_path / name).mkdir()
        for code, told in sft(tmp_path / name, *where, *words):
            assert code == 0, told
    found, expected = (
        [row["loss"] for row in read_metrics(tmp_path / name / "out" / "metrics.jsonl") if "loss" in row]
        for name in ("engine", "ddp")
    )
    assert len(expected) == 4
    assert found == pytest.approx(expected, abs=1e-5)
    written = json.loads((tmp_path / "engine" / "out" / "deepspeed.json").read_text())
    assert (written["train_batch_size"], written["gradient_accumulation_steps"]) == (8, 2)
    assert written["zero_optimization"]["stage"] == 3

    refused = sft(tmp_path, *where, "strategy=deepspeed", f"strategy.config_file={tmp_path / 'other.json'}")
    for code, told in refused:
        assert code != 0
        assert "train_batch_size=6, but global_batch_size=8" in told
