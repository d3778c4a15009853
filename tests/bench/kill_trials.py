"""Kill -9 a training at random moments, restart it, and compare with a run that nobody disturbed.

Run: python tests/bench/kill_trials.py [--trials 20] [--ranks 2] [--restart-ranks 2] [--strategy ddp]

Half of the trials kill all ranks at a random step, half while a checkpoint is being written. With as many
ranks after the restart as before, the weights must be equal to the bit; with another number they must agree
to 1e-5 of the largest, and every sample must have been read once, in its step.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from portable.core.record import Batch
from portable.testing.process import Rank, free_port, run_processes, start
from portable.testing.runtime import make_runtime
from portable.testing.strategy.tiny import RowSource, TinyModel, train_config, weights_hash, workspace
from portable.train.config import CheckpointConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer

STEPS, ROWS, EVERY = 30, 8, 3
_PATIENCE_S = 120.0


class TellingSource(RowSource):
    """Writes down which rows of which step this rank was given."""

    def __init__(self, size: int, rank: int, folder: Path) -> None:
        super().__init__(1, ROWS // size, rank, size)
        self.folder = folder

    def next_batches(self) -> list[Batch]:
        step = self.next_row // ROWS + 1
        first = self.next_row + self.rank * self.accum
        (self.folder / f"rows-{step}-{self.rank}of{self.size}.txt").write_text(
            " ".join(map(str, range(first, first + self.accum)))
        )
        return super().next_batches()


def train(folder: str, strategy: str, dropout: str) -> dict[str, Any]:
    """Train to the end from whatever stands in ``folder``; slow enough to be killed anywhere."""
    runtime = make_runtime("cpu", strategy)
    runtime.seed_everything(5)
    group, place = runtime.group, Path(folder)
    trainer = Trainer(
        TinyModel(dropout=float(dropout)),
        next_token_loss,
        TellingSource(group.size, group.rank, place),
        train_config(STEPS, checkpoint=CheckpointConfig(every_steps=EVERY)),
        runtime,
        workspace(place),
    )
    real = trainer.train_step

    def told(batches: Any) -> Any:
        if group.rank == 0:
            (place / "step.txt").write_text(str(trainer.step))
        time.sleep(0.01)
        return real(batches)

    trainer.train_step = told
    trainer.resume()
    began = trainer.step
    trainer.fit()
    weights = trainer.model.whole_weights()
    if group.rank == 0:
        torch.save(weights, place / "weights.pt")
    group.close()
    return {"hash": weights_hash(weights), "began": began}


@dataclass(frozen=True, slots=True)
class Trial:
    """When a run was killed, where it went on, and how its end compares."""

    moment: str
    killed_at: int
    began: int
    same_bits: bool
    difference: float
    samples_right: bool


def run_trials(
    root: Path, trials: int, ranks: int, restart_ranks: int, strategy: str = "ddp", seed: int | None = None
) -> list[Trial]:
    """Run ``trials`` of them; ``seed`` decides the moments (None: the clock does)."""
    stream = random.Random(time.time_ns() if seed is None else seed)
    dropout = "0.2" if ranks == restart_ranks else "0.0"  # random streams start anew in another layout
    whole = _run(root / "whole", ranks, strategy, dropout)
    return [
        _trial(root / f"trial-{number}", whole, stream, number, (ranks, restart_ranks), strategy, dropout)
        for number in range(trials)
    ]


def _trial(
    folder: Path,
    whole: tuple[str, dict[str, torch.Tensor]],
    stream: random.Random,
    number: int,
    ranks: tuple[int, int],
    strategy: str,
    dropout: str,
) -> Trial:
    if number % 2:
        wanted = stream.randrange(1, STEPS // EVERY)
        moment, delay_s = f"in a save, from the {wanted}. on", stream.uniform(0.0, 0.02)

        def ready(step: int) -> bool:
            return step >= wanted * EVERY - 1 and any((folder / "checkpoints").glob(".partial-*"))
    else:
        wanted, delay_s = stream.randrange(1, STEPS), 0.0
        moment = f"at step {wanted}"

        def ready(step: int) -> bool:
            return step >= wanted

    killed_at = _kill(folder, ranks[0], ready, delay_s, strategy, dropout)
    digest, weights = _run(folder, ranks[1], strategy, dropout)
    began = int((folder / "began.txt").read_text())
    largest = max(float(tensor.abs().max()) for tensor in whole[1].values())
    difference = max(float((weights[name] - tensor).abs().max()) for name, tensor in whole[1].items())
    samples = _samples_right(folder, began, ranks)
    return Trial(moment, killed_at, began, digest == whole[0], difference / largest, samples)


def _kill(
    folder: Path, ranks: int, ready: Callable[[int], bool], delay_s: float, strategy: str, dropout: str
) -> int:
    port = free_port()
    folder.mkdir(parents=True)
    places = [(rank, ranks, port) for rank in range(ranks)]
    arguments = (str(folder), strategy if ranks > 1 else "single", dropout)
    processes = [
        start("tests.bench.kill_trials:train", place, folder / "results", *arguments) for place in places
    ]
    deadline = time.monotonic() + _PATIENCE_S
    while not ready(_step(folder)):
        if time.monotonic() > deadline or processes[0].poll() is not None:
            break  # it was faster than we: the run is whole, which is a trial too
        time.sleep(0.0005)
    time.sleep(delay_s)
    for process in processes:
        _end(process)
    return _step(folder)


def _end(process: Rank) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def _step(folder: Path) -> int:
    file = folder / "step.txt"
    text = file.read_text() if file.is_file() else ""
    return int(text) if text else -1


def _run(folder: Path, ranks: int, strategy: str, dropout: str) -> tuple[str, dict[str, torch.Tensor]]:
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (str(folder), strategy if ranks > 1 else "single", dropout)
    report = run_processes("tests.bench.kill_trials:train", ranks, folder / "results", *arguments)
    (folder / "began.txt").write_text(str(report[0]["began"]))
    return report[0]["hash"], torch.load(folder / "weights.pt", map_location="cpu", weights_only=True)


def _samples_right(folder: Path, began: int, ranks: tuple[int, int]) -> bool:
    """Whether each step read its own rows, once: those before ``began`` by the killed run, then the other."""
    for step in range(1, STEPS + 1):
        size = ranks[0] if step <= began else ranks[1]
        files = [folder / f"rows-{step}-{rank}of{size}.txt" for rank in range(size)]
        rows = [int(row) for file in files if file.is_file() for row in file.read_text().split()]
        if sorted(rows) != list(range((step - 1) * ROWS, step * ROWS)):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--restart-ranks", type=int, default=2)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = run_trials(
            Path(root), asked.trials, asked.ranks, asked.restart_ranks, asked.strategy, asked.seed
        )
    print(f"{asked.ranks} ranks, restarted on {asked.restart_ranks}, strategy {asked.strategy}")
    print("| killed | at step | went on from | bits equal | difference | samples right |")
    print("|---|---|---|---|---|---|")
    for trial in found:
        print(
            f"| {trial.moment} | {trial.killed_at} | {trial.began} | {'yes' if trial.same_bits else 'no'} | "
            f"{trial.difference:.1e} | {'yes' if trial.samples_right else 'no'} |"
        )


if __name__ == "__main__":
    main()
