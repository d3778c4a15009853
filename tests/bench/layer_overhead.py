"""Time a training step through the layer beside the same step written directly in torch.

Run: OMP_NUM_THREADS=1 python tests/bench/layer_overhead.py [--pairs 40]

Both train the same decoder on the same batch with the same optimiser: one by ``Trainer.train_step`` (device,
transfer, group, strategy, kernels picked by the registry), one by a dozen lines of torch that hold the kernel
functions themselves. Steps alternate, A B B A, so that drift of the machine falls on both; the figure is the
median of the ratios of neighbours, with its bootstrap interval.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from backends.cpu.processor import cpu_title
from portable.core.record import Batch
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.train.config import AdamWConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import make_runtime, workspace

MODEL = ModelConfig(
    vocab_size=2048, hidden_size=256, num_layers=4, num_heads=8, num_kv_heads=4, intermediate_size=768
)
LR, BETAS, DECAY, MAX_NORM = 1e-3, (0.9, 0.95), 0.1, 1.0


def make_batch(rows: int, seq_len: int) -> Batch:
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(MODEL.vocab_size, (rows, seq_len + 1), generator=stream)
    positions = torch.arange(seq_len).expand(rows, -1)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, seq_len), positions)


class OneBatch:
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def next_batches(self) -> list[Batch]:
        return [self.batch]

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def layered_step(batch: Batch, folder: Path) -> Callable[[], float]:
    runtime = make_runtime()
    config = TrainConfig(steps=10**6, optim=AdamWConfig(lr=LR, weight_decay=DECAY), max_grad_norm=MAX_NORM)
    config.schedule.warmup_steps = 0
    model = new_model(MODEL, runtime.kernels, seed=0)
    trainer = Trainer(model, next_token_loss, OneBatch(batch), config, runtime, workspace(folder))
    return lambda: float(trainer.train_step([batch]).loss_mean)


def direct_step(batch: Batch) -> Callable[[], float]:
    model = new_model(MODEL, make_runtime().kernels, seed=0)
    kept = {id(model.embed.weight), *(id(p) for p in model.parameters() if p.ndim == 1)}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in kept], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if id(p) in kept], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)

    def step() -> float:
        log_probs = model(batch.input_ids_BT, batch.position_ids_BT, None, targets=batch.target_ids_BT)
        loss = -(log_probs * batch.loss_weight_BT).sum() / batch.loss_weight_BT.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def timed(step: Callable[[], float]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(
    layered: Callable[[], float], direct: Callable[[], float], pairs: int
) -> list[tuple[float, float]]:
    times: list[tuple[float, float]] = []
    for place in range(pairs):
        first, second = (layered, direct) if place % 2 else (direct, layered)
        one, two = timed(first), timed(second)
        times.append((one, two) if place % 2 else (two, one))
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    print(
        f"{cpu_title()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}"
    )
    print("| rows x tokens | layer, ms | direct, ms | ratio, median | 95% interval |")
    print("| --- | ---: | ---: | ---: | --- |")
    for rows, seq_len in itertools.product((1, 8), (128,)):
        batch = make_batch(rows, seq_len)
        with tempfile.TemporaryDirectory() as folder:
            layered, direct = layered_step(batch, Path(folder)), direct_step(batch)
            losses = [(layered(), direct()) for _ in range(5)]  # warm-up; and they must be the same step
            if any(abs(a - b) > 1e-4 for a, b in losses):
                raise SystemExit(f"the two do not compute the same: {losses}")
            times = compare(layered, direct, pairs)
        ratios = np.array([a / b for a, b in times])
        draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
        a, b = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"| {rows} x {seq_len} | {a:.2f} | {b:.2f} | {np.median(ratios):.4f} | {low:.4f} to {high:.4f} |"
        )


if __name__ == "__main__":
    main()
