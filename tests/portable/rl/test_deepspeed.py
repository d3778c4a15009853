"""``portable rl strategy=deepspeed``: samples from the weights that the engine keeps, honours its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portable.core.metric import read_metrics
from portable.testing.process import run_processes

pytest.importorskip("deepspeed", reason="strategy=deepspeed needs the package")
CALL = "tests.portable.parallel.strategies.deepspeed.case_command:call"
SIZES = ("steps=3", "prompts_per_rollout=20", "num_samples=4", "micro_batch_size=16", "seeds=[0]")
FILE = {"train_micro_batch_size_per_gpu": 16, "gradient_clipping": 1.0}


def rl(folder: Path, *words: str) -> list[tuple[int, str]]:
    fixed = ("kernel.self_test=off", "checkpoint.every_steps=0", "drop_uniform_groups=false")
    return run_processes(
        CALL, 2, folder, "rl", *SIZES, *fixed, *words, f"output_dir={folder / 'out'}", timeout_s=400.0
    )


@pytest.mark.slow
def test_a_stage_trains_what_ddp_trains(policy_dir: Path, tmp_path: Path) -> None:
    engine = ("strategy=deepspeed", f"strategy.config_file={tmp_path / 'ds.json'}")
    document = FILE | {"zero_optimization": {"stage": 2}}
    (tmp_path / "ds.json").write_text(json.dumps(document))
    losses: dict[str, list[float]] = {}
    for name, words in (("ddp", ("strategy=ddp",)), ("engine", engine)):
        (tmp_path / name).mkdir()
        for code, told in rl(tmp_path / name, f"model_path={policy_dir}", *words):
            assert code == 0, told
        rows = read_metrics(tmp_path / name / "out" / "metrics.jsonl")
        losses[name] = [row["loss"] for row in rows if "loss" in row]
    assert len(losses["ddp"]) == 3
    assert losses["engine"] == pytest.approx(losses["ddp"], abs=1e-5)
    written = json.loads((tmp_path / "engine" / "out" / "deepspeed.json").read_text())
    assert written["train_micro_batch_size_per_gpu"] == 16
    assert "train_batch_size" not in written  # a step's samples are those that teach something

    (tmp_path / "ds.json").write_text(json.dumps(document | {"train_batch_size": 80}))
    for code, told in rl(tmp_path, f"model_path={policy_dir}", *engine):
        assert code != 0
        assert "train_batch_size=80, but global_batch_size=other in every step" in told
    for code, told in rl(tmp_path, f"model_path={policy_dir}", "strategy=deepspeed", "strategy.stage=3"):
        assert code != 0
        assert "stage 1 or 2 of DeepSpeed's engine" in told
