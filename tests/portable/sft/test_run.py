import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from portable.core.artefact import SEAL, Artefact, open_artefact
from portable.core.errors import ConfigError
from portable.core.metric import JsonlSink, read_metrics
from portable.core.workspace import Workspace
from portable.engine.config import NativeEngineConfig
from portable.model.weights import load_model
from portable.parallel.runtime import Runtime
from portable.sft.config import AdapterConfig, AdapterKind, SftConfig
from portable.sft.run import run_sft
from portable.train.config import AdamWConfig, Decay, ScheduleConfig

ENGINE = NativeEngineConfig(max_batch_size=8)


@pytest.fixture
def config(model_dir: Path, data_dir: Path) -> SftConfig:
    return SftConfig(
        model_path=str(model_dir),
        data=str(data_dir),
        epochs=30.0,
        seq_len=96,
        micro_batch_size=2,
        global_batch_size=4,
        arithmetic_format_examples=8,
        num_questions=8,
        max_new_tokens=16,
        optim=AdamWConfig(lr=0.02, weight_decay=0.0),
        schedule=ScheduleConfig(decay=Decay.cosine, warmup_steps=2),
    )


def run(config: SftConfig, runtime: Runtime, path: Path) -> Artefact:
    sink = JsonlSink(path / "metrics.jsonl")
    return run_sft(config, runtime, ENGINE, Workspace(path, sink))


def test_loss_falls_and_answers_get_better(config: SftConfig, runtime: Runtime, tmp_path: Path):
    artefact = run(replace(config, eval_every_steps=5), runtime, tmp_path)
    summary = artefact.summary
    assert summary["heldout_loss_after"] < 0.5 * summary["heldout_loss_before"]
    assert summary["f1_before"] < 0.3
    assert summary["f1_after"] > 0.6
    assert (summary["num_train"], summary["num_heldout"]) == (24, 8)
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert len(samples) == 8
    assert sum(sample["f1_after"] for sample in samples) / 8 == pytest.approx(summary["f1_after"], abs=1e-4)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == summary["steps"]
    assert "heldout_loss" in rows[4]
    assert not (tmp_path / "checkpoints").exists()
    assert open_artefact(tmp_path, "model", verify=True).digest == artefact.digest


def test_the_same_settings_give_the_same_weights(config: SftConfig, runtime: Runtime, tmp_path: Path):
    config = replace(config, epochs=2.0)
    digests = {run(config, runtime, tmp_path / name).digest for name in ("a", "b")}
    assert len(digests) == 1
    assert run(replace(config, seed=1), runtime, tmp_path / "c").digest not in digests


def test_lora_trains_a_part_and_leaves_a_whole_model(config: SftConfig, runtime: Runtime, tmp_path: Path):
    config = replace(config, epochs=20.0, adapter=AdapterConfig(kind=AdapterKind.lora, r=4, alpha=8.0))
    artefact = run(config, runtime, tmp_path)
    base, _ = load_model(Path(config.model_path), runtime.kernels)
    tuned, _ = load_model(tmp_path, runtime.kernels)
    assert artefact.summary["parameters_trained"] < sum(p.numel() for p in base.parameters())
    assert torch.equal(base.embed.weight, tuned.embed.weight)
    assert not torch.equal(base.blocks["0"].mlp.up.weight, tuned.blocks["0"].mlp.up.weight)  # pyright: ignore
    assert artefact.summary["heldout_loss_after"] < 0.8 * artefact.summary["heldout_loss_before"]
    files = json.loads((tmp_path / SEAL).read_text())["files"]
    assert {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "model.safetensors",
    } <= files.keys()


def test_packing_changes_the_rows_and_not_what_is_learnt_from(
    config: SftConfig, runtime: Runtime, tmp_path: Path
):
    packed = run(replace(config, steps=1), runtime, tmp_path / "packed")
    loose = run(replace(config, steps=1, packing=False), runtime, tmp_path / "loose")
    assert packed.summary["num_rows"] < loose.summary["num_rows"] == 24
    assert packed.summary["heldout_loss_before"] == loose.summary["heldout_loss_before"]


def test_a_row_longer_than_the_model_is_refused(config: SftConfig, runtime: Runtime, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"sft\.seq_len=512 is longer than the 128 tokens"):
        run(replace(config, seq_len=512), runtime, tmp_path)


# What a killed process runs: the same call as here, from nothing but the folder names.
SCRIPT = """
import sys
from pathlib import Path
from portable.core.workspace import Workspace
from portable.core.metric import JsonlSink
from portable.engine.config import NativeEngineConfig
from portable.hardware.spec import HardwareConfig
from portable.kernel.config import KernelConfig, SelfTest
from portable.parallel.build import build_runtime
from portable.parallel.config import CommunicatorConfig, PrecisionConfig, SingleConfig
from portable.sft.config import AdapterConfig, AdapterKind, SftConfig
from portable.sft.run import run_sft
from portable.train.config import AdamWConfig, CheckpointConfig

model, data, out = sys.argv[1:]
runtime = build_runtime(HardwareConfig(name="cpu", backend="cpu"), SingleConfig(), PrecisionConfig(),
                        CommunicatorConfig(name="gloo"), KernelConfig(self_test=SelfTest.off))
config = SftConfig(model_path=model, data=data, steps=40, seq_len=96, micro_batch_size=2, global_batch_size=4,
                   arithmetic_format_examples=8, num_questions=2, max_new_tokens=4,
                   optim=AdamWConfig(lr=0.01),
                   adapter=AdapterConfig(kind=AdapterKind.lora, r=2, dropout=0.2),
                   checkpoint=CheckpointConfig(every_steps=4))
path = Path(out)
run_sft(config, runtime, NativeEngineConfig(), Workspace(path, JsonlSink(path / "metrics.jsonl")))
"""


def test_a_killed_run_ends_with_the_same_bytes(model_dir: Path, data_dir: Path, tmp_path: Path):
    """Also under dropout: random streams continue where they were."""

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(model_dir), str(data_dir), str(tmp_path / name)]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start("whole")
    killed = start("killed")
    while len(read_metrics(tmp_path / "killed" / "metrics.jsonl")) < 10:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / SEAL).exists()
    metrics = tmp_path / "killed" / "metrics.jsonl"
    num_lines = len(metrics.read_text().splitlines())
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    assert open_artefact(tmp_path / "killed").digest == open_artefact(tmp_path / "whole").digest
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps[num_lines] > 1  # it continued from a checkpoint, not from the start
