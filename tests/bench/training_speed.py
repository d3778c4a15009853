"""Training speed on this machine: our trainer beside transformers' and beside a bare loop of torch.

Run: OMP_NUM_THREADS=2 python tests/bench/training_speed.py [--rounds 6] [--steps 12]

All three train the same architecture (Qwen3) on rows of one shape with AdamW, clipping at 1: ours by
``Trainer.fit``; ``transformers.Trainer`` its own Qwen3ForCausalLM; the bare loop our decoder, in a dozen
lines. Each has a process of its own, as its user would; blocks of steps alternate, so that drift of the
machine falls on all. A block's figure is the median of its steps, reading of the data included, and the ratio
the median over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
    TrainingArguments,
)
from transformers import (
    Trainer as HfTrainer,
)

from backends.cpu.processor import cpu_title
from portable.core.record import Batch
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.train.config import AdamWConfig, CheckpointConfig, TrainConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.bench.layer_overhead import direct_step
from tests.portable.train.support import make_runtime, workspace

MODEL = ModelConfig(
    vocab_size=2048, hidden_size=256, num_layers=4, num_heads=8, num_kv_heads=4, intermediate_size=768
)


class Rows:
    """Batches of random rows, told apart by the step, and the time at which each was asked for."""

    def __init__(self, rows: int, seq_len: int) -> None:
        self.shape = (rows, seq_len)
        self.asked: list[float] = []

    def next_batches(self) -> list[Batch]:
        self.asked.append(time.perf_counter())
        rows, seq_len = self.shape
        stream = torch.Generator().manual_seed(len(self.asked))
        ids = torch.randint(MODEL.vocab_size, (rows, seq_len + 1), generator=stream)
        positions = torch.arange(seq_len).expand(rows, -1)
        return [
            Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, seq_len), positions)
        ]

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


class HfRows(torch.utils.data.Dataset):
    def __init__(self, size: int, seq_len: int) -> None:
        stream = torch.Generator().manual_seed(0)
        self.ids = torch.randint(MODEL.vocab_size, (size, seq_len), generator=stream)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[place], "labels": self.ids[place]}


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.begun: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun.append(time.perf_counter())


def ours(shape: tuple[int, int], steps: int) -> list[float]:
    runtime = make_runtime()
    config = TrainConfig(
        steps=steps,
        optim=AdamWConfig(),
        log_every_steps=10,
        checkpoint=CheckpointConfig(every_steps=0),
    )
    config.schedule.warmup_steps = 0
    source = Rows(*shape)
    with tempfile.TemporaryDirectory() as folder:
        model = new_model(MODEL, runtime.kernels, seed=0)
        Trainer(model, next_token_loss, source, config, runtime, workspace(Path(folder))).fit()
    return _gaps(source.asked)


def transformers(shape: tuple[int, int], steps: int) -> list[float]:
    config = Qwen3Config(
        vocab_size=MODEL.vocab_size,
        hidden_size=MODEL.hidden_size,
        intermediate_size=MODEL.intermediate_size,
        num_hidden_layers=MODEL.num_layers,
        num_attention_heads=MODEL.num_heads,
        num_key_value_heads=MODEL.num_kv_heads,
        head_dim=MODEL.head_dim,
        max_position_embeddings=MODEL.max_seq_len,
        tie_word_embeddings=MODEL.tie_embeddings,
        use_cache=False,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=shape[0],
            max_steps=steps,
            learning_rate=1e-3,
            weight_decay=0.1,
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = HfTrainer(
            model=Qwen3ForCausalLM(config),
            args=arguments,
            train_dataset=HfRows(shape[0] * steps, shape[1]),
            callbacks=[clock],
        )
        trainer.train()
    return _gaps(clock.begun)


def bare(shape: tuple[int, int], steps: int) -> list[float]:
    source = Rows(*shape)
    step = direct_step(source.next_batches()[0])
    source.asked.clear()
    for _ in range(steps):
        source.next_batches()
        step()
    return _gaps(source.asked)


def _gaps(marks: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(marks)][2:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    runs: dict[str, Callable[[tuple[int, int], int], list[float]]] = {
        "portable": ours,
        "transformers.Trainer": transformers,
        "bare loop": bare,
    }
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        homes = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in runs}
        compare(runs, homes, arguments.rounds, arguments.steps)


def compare(
    runs: dict[str, Callable[[tuple[int, int], int], list[float]]],
    homes: dict[str, ProcessPoolExecutor],
    rounds: int,
    steps: int,
) -> None:
    """Print a row a shape and contestant."""
    print(f"{cpu_title()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| rows x tokens | who | tokens/s | ours / theirs |")
    print("| --- | --- | ---: | ---: |")
    for shape in ((1, 128), (4, 256), (8, 128)):
        times: dict[str, list[float]] = {name: [] for name in runs}
        for place in range(rounds):
            order = list(runs) if place % 2 else list(reversed(runs))
            for name in order:
                times[name].append(statistics.median(homes[name].submit(runs[name], shape, steps).result()))
        for name, own in times.items():
            ratios = [theirs / mine for theirs, mine in zip(own, times["portable"], strict=True)]
            speed = shape[0] * shape[1] / statistics.median(own)
            print(
                f"| {shape[0]} x {shape[1]} | {name} | {speed:,.0f} | {statistics.median(ratios):.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
