"""Train one model by DeepSpeed's stages and by our strategies that divide the same: losses, time, memory.

Run: OMP_NUM_THREADS=1 python -m tests.bench.deepspeed_parity [--ranks 2] [--steps 12]

All six begin with the same weights and read the same samples, in float32. Their steps alternate in one run
of real processes; a time is the median over rank 0's steps but the first two, the ratio the median of
neighbours' ratios, so that what else the machine does falls on both. Peak memory is the growth of resident
memory from before the model is made to the end of three steps, of the rank where it is largest, each way in
processes of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from portable.core.record import Batch
from portable.data.loader import BatchShape
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.parallel.runtime import Runtime
from portable.testing.process import run_processes
from portable.testing.runtime import make_runtime, with_strategy
from portable.testing.strategy.decoder import Rows
from portable.testing.strategy.tiny import workspace
from portable.train.config import AdamWConfig, CheckpointConfig, ScheduleConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

PAIRS = {"zero1": 1, "zero2": 2, "zero3": 3}
WAYS = [*PAIRS, *map(str, PAIRS.values())]
ROWS, LENGTH = 8, 128
MODEL = ModelConfig(
    vocab_size=1024,
    hidden_size=256,
    intermediate_size=704,
    num_layers=6,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    max_seq_len=LENGTH,
)
BAR = 1e-5  # of the losses' difference


def _batch(samples: range) -> Batch:
    """Random tokens, a row from its own number."""
    streams = [torch.Generator().manual_seed(sample) for sample in samples]
    # A row repeats its first half, so that there is something to learn.
    halves = [torch.randint(MODEL.vocab_size, (LENGTH // 2 + 1,), generator=stream) for stream in streams]
    ids = torch.stack([torch.cat([half, half])[: LENGTH + 1] for half in halves])
    positions = torch.arange(LENGTH).expand(len(samples), -1)
    return Batch(
        ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones_like(ids[:, 1:]).float(), positions
    )


def compare(num_steps: str) -> dict[str, Any]:
    """Take all ways' steps in turn."""
    first = make_runtime("cpu", "ddp")
    with tempfile.TemporaryDirectory() as folder:
        trainers = {way: _trainer(first, way, Path(folder)) for way in WAYS}
        losses: dict[str, list[float]] = {way: [] for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(int(num_steps)):
            for way, trainer in trainers.items():
                batches = trainer.source.next_batches()
                first.group.barrier()
                start = time.perf_counter()
                losses[way].append(float(trainer.train_step(batches).loss_mean))
                times[way].append(time.perf_counter() - start)
    first.group.close()
    return {"losses": losses, "times": {way: taken[2:] for way, taken in times.items()}}


def peak(way: str) -> int:
    """Return the growth of resident memory in three steps of one way, in bytes."""
    first = make_runtime("cpu", "ddp")
    before = first.device.memory().used_bytes
    first.device.reset_peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(first, way, Path(folder))
        for _ in range(3):
            trainer.train_step(trainer.source.next_batches())
        found = first.device.memory().peak_bytes
    first.group.close()
    if found is None:
        raise SystemExit("this system tells no peak of a process's memory")
    return found - before


def _trainer(first: Runtime, way: str, folder: Path) -> Trainer:
    runtime = with_strategy(first, way) if way in PAIRS else _engine(first, int(way))
    readers = runtime.readers
    shape = BatchShape(1, ROWS // readers.size, readers.rank, readers.size)
    config = TrainConfig(
        steps=1000,
        optim=AdamWConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_steps=0),
        checkpoint=CheckpointConfig(every_steps=0),
    )
    model = new_model(MODEL, runtime.kernels, seed=0)
    return Trainer(model, next_token_loss, Rows(shape, _batch), config, runtime, workspace(folder))


def _engine(first: Runtime, stage: int) -> Runtime:
    # Buckets of ours' size, 25 MiB; a threshold that leaves norms' weights whole and nothing else.
    return with_strategy(
        first,
        "deepspeed",
        stage=stage,
        reduce_bucket_size=6_553_600,
        allgather_bucket_size=6_553_600,
        stage3_prefetch_bucket_size=6_553_600,
        stage3_param_persistence_threshold=1_000,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    module = "tests.bench.deepspeed_parity"
    with tempfile.TemporaryDirectory() as folder:
        report = run_processes(
            f"{module}:compare", options.ranks, Path(folder), str(options.steps), timeout_s=1500
        )[0]
        peaks = {
            way: max(run_processes(f"{module}:peak", options.ranks, Path(folder), way, timeout_s=600))
            for way in WAYS
        }
    losses, times = report["losses"], report["times"]
    print(
        "| stage | loss, first → last | largest difference | ours, ms | DeepSpeed, ms | DeepSpeed / ours | "
        "ours, peak MiB | DeepSpeed, peak MiB |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    worst = 0.0
    for native, stage in PAIRS.items():
        ours, theirs = losses[native], losses[str(stage)]
        apart = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
        ratio = statistics.median(
            theirs_s / ours_s for theirs_s, ours_s in zip(times[str(stage)], times[native], strict=True)
        )
        worst = max(worst, apart)
        own, other = (1e3 * statistics.median(times[way]) for way in (native, str(stage)))
        print(
            f"| {stage} | {ours[0]:.4f} → {ours[-1]:.4f} | {apart:.1e} | {own:.0f} | {other:.0f} | "
            f"{ratio:.2f} | {peaks[native] / 2**20:.0f} | {peaks[str(stage)] / 2**20:.0f} |"
        )
    if worst > BAR:
        raise SystemExit(f"losses differ by {worst:.1e}, more than {BAR:.0e}")


if __name__ == "__main__":
    main()
