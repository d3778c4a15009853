"""The one training loop: pretraining, SFT, preference and RL updates differ only in the objective they hand
to it.

It owns loss normalisation. An objective returns a *sum* over terms; the gradient that reaches the optimiser
is that of ``sum over all micro-batches and ranks / number of terms of the whole step``, whatever the
micro-batch size, the accumulation and the layout. Strategies and passes only add up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from portable.collective.protocol import ReduceOp
from portable.core.errors import CollectiveError, DataError, StoppedError
from portable.core.record import Batch
from portable.core.stop import StopRequest
from portable.core.workspace import Workspace
from portable.data.source import BatchSource, source_metrics
from portable.parallel.objective import LossSum, Objective
from portable.parallel.runtime import Runtime
from portable.parallel.spread import Fill, spread
from portable.train.checkpoint.checkpointer import Checkpointer
from portable.train.checkpoint.initial import fill_weights, hf_fill
from portable.train.config import TrainConfig
from portable.train.meter.memory import ModelMemory
from portable.train.meter.step_time import StepTime
from portable.train.metrics import Throughput
from portable.train.optim.build import build_optimizer
from portable.train.optim.kind import kinds_of
from portable.train.precision import forward_context
from portable.train.progress import progress_bar
from portable.train.rollback import DivergedError, LossWatch
from portable.train.schedule import lr_factor
from portable.train.transfer import Transfer

logger = logging.getLogger(__name__)
Evaluate = Callable[[int], Mapping[str, float]]
Meter = Callable[[], Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step did; means are over ``num_terms`` terms of all ranks.

    Tensors stay on the device.
    """

    loss_mean: Tensor
    grad_norm: Tensor
    num_terms: float
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    micro_losses: Tensor | None = None  # this rank's loss sum of each micro-batch
    micro_terms: tuple[float, ...] = ()
    left_out: bool = False  # it overflowed in fp16, and updated nothing


class Trainer:
    """Trains ``model`` on ``objective`` over the batches of ``source`` for ``config.steps`` optimiser steps.

    ``module`` is the model as given (its parameters may be cut and sharded in place), ``model`` what trains
    on all ranks. A model on the meta device takes its weights from ``fill``. ``evaluate`` is called with the
    number of steps done, every ``config.eval_every_steps``; its numbers are recorded. What each of
    ``meters`` returns is recorded with the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: BatchSource,
        config: TrainConfig,
        runtime: Runtime,
        workspace: Workspace,
        *,
        flops_per_token: float | None = None,
        evaluate: Evaluate | None = None,
        fill: Fill | None = None,
    ) -> None:
        self.objective = objective
        self.source = source
        self.config = config
        self.runtime = runtime
        self.workspace = workspace
        self.evaluate = evaluate
        self.step = 0
        self.tokens_seen = 0.0
        self._transfer = Transfer(runtime.device, runtime.torch_device)
        self.module = model
        kinds = kinds_of(model)
        with runtime.group.naming_ranks("spreading the model"):
            self.model = spread(model, runtime, forward_context(runtime), fill=fill)
        self.optimizer = build_optimizer(
            self.model.strategy.shards(), kinds, config.optim, runtime.kernels, runtime.mesh
        )
        self.model.strategy.attach(self.optimizer)
        self._checkpointer = Checkpointer(workspace.checkpoint_dir, config.checkpoint, self.model, source)
        self._loss_watch = LossWatch(config.rollback)
        self._stop_request = StopRequest()
        self._left_out: dict[int, int] = {}  # steps' worth of samples skipped behind the newest checkpoint
        self._throughput = Throughput(
            world_size=runtime.group.size,
            flops_per_token=flops_per_token,
            peak_flops=runtime.hardware.peak_flops(runtime.precision.compute_dtype.name),
        )
        self._time = StepTime(runtime.device)
        strategy, index = self.model.strategy, runtime.group.local_rank
        self._memory = ModelMemory(strategy, self.optimizer, runtime.device, index)
        self.meters: list[Meter] = [
            self._time.read,
            self._memory.read,
            self.model.read_auxiliary,
            self.model.read_bubble,
            self.model.loss_scale.read,
            lambda: source_metrics(source),
        ]
        self._unlogged: list[StepResult] = []
        self._unlogged_tokens = 0
        if config.schedule.warmup_steps >= config.steps:
            logger.warning(
                "schedule.warmup_steps=%d is not below steps=%d: the learning rate never reaches its full "
                "value",
                config.schedule.warmup_steps,
                config.steps,
            )

    def fit(self) -> None:
        """Train to the last step, from the newest whole checkpoint if any; leave a checkpoint of the end.

        With ``checkpoint.create_seed``, only leave one of the beginning.
        Raises: DivergedError, naming the step, if a loss or gradient is not finite (see ``RollbackConfig``);
        StoppedError, with the state saved, if any rank got a stop signal.
        """
        resumed = self.resume()
        with closing(self._checkpointer), self._stop_request:
            try:
                self._train_to_end(resumed)
            except CollectiveError:
                self._checkpointer.abandon()
                raise

    def _train_to_end(self, resumed: bool) -> None:
        if not resumed and (self.config.checkpoint.create_seed or self._loss_watch.may_go_back):
            self._save()
        while self.step < self.config.steps and not self.config.checkpoint.create_seed:
            try:
                self._train()
            except DivergedError as error:
                self._go_back(error)

    def resume(self) -> bool:
        """Continue from the newest whole checkpoint; without one, take the weights that were asked for and
        return False.
        """
        if self._restore():
            return True
        config = self.config.checkpoint
        if config.initial_load_in_hf:
            fill_weights(self.model, hf_fill(Path(config.initial_load_path)))
        elif config.initial_load_path:
            self._checkpointer.start_from(Path(config.initial_load_path))
        return False

    def _restore(self) -> bool:
        restored = self._checkpointer.load()
        if restored is not None:
            self.step, counters = restored
            self.tokens_seen = counters["tokens_seen"]
            self._loss_watch.load_state_dict(counters["loss_watch"])
            if "loss_scale" in counters:
                self.model.loss_scale.load_state_dict(counters["loss_scale"])
        return restored is not None

    def _save(self) -> None:
        counters = {"tokens_seen": self.tokens_seen, "loss_watch": self._loss_watch.state_dict()}
        if self.model.loss_scale.is_on:
            counters["loss_scale"] = self.model.loss_scale.state_dict()
        self._checkpointer.save(self.step, counters)

    def _train(self) -> None:
        self._throughput.restart()
        self._time.restart()
        with progress_bar("training", self.step, self.config.steps, show=self._shows_progress) as advance:
            while self.step < self.config.steps:
                with self._time.waiting("data_wait_s"):
                    batches = self.source.next_batches()
                if not self.model.training:  # a source that samples, or an evaluation, left it so
                    self.model.train()
                self._unlogged.append(self.train_step(batches))
                self._unlogged_tokens += sum(batch.num_tokens for batch in batches)
                self.step += 1
                self._after_step(advance)

    def _go_back(self, error: DivergedError) -> None:
        """Return to the last checkpoint and leave out the samples from there to the step that went wrong."""
        times = self._loss_watch.num_rollbacks + 1
        if not self._loss_watch.may_go_back or not self._restore():
            raise error
        bad = error.step - self.step + self._left_out.get(self.step, 0)
        self._left_out = {self.step: bad}
        for _ in range(bad):
            self.source.next_batches()
        self._loss_watch.num_rollbacks = times
        self._unlogged.clear()
        self._unlogged_tokens = 0
        logger.warning(
            "%s; went back to step %d and left out the samples of %d steps (rollback %d of at most %d)",
            *(error, self.step, bad, times, self.config.rollback.max_times),
        )
        self._record({"rollbacks": times, "rollback_from_step": error.step})

    def train_step(self, batches: Sequence[Batch]) -> StepResult:
        """One optimiser step; the loss is a mean over its terms (target tokens for SFT, pairs for DPO).

        Raises: DataError if the step has no term to learn from; CollectiveError if ranks hold different
        numbers of micro-batches, which would let them wait for each other for ever.
        """
        group = self.runtime.group
        micro_terms = tuple(batch.num_terms for batch in batches)
        num_terms = self._global_num_terms(micro_terms)
        # Wrappers talk to other ranks by themselves: what goes wrong there is told as the group tells it.
        with group.naming_ranks("the training step"):
            sums, grad_norm = self._forward_backward(batches, num_terms)
        loss_mean, metrics = self._global_means(sums, num_terms)
        micro_losses = torch.stack([item.loss.float() for item in sums])
        left_out = self.model.left_out
        return StepResult(loss_mean, grad_norm, num_terms, metrics, micro_losses, micro_terms, left_out)

    def _forward_backward(self, batches: Sequence[Batch], num_terms: float) -> tuple[list[LossSum], Tensor]:
        self.optimizer.set_lr_factor(lr_factor(self.step, self.config.steps, self.config.schedule))
        moved = self._transfer.each(batches)
        self._time.begin()
        sums = self.model.forward_backward(moved, self.objective, 1.0 / num_terms)
        self._time.mark()
        self._memory.note_gradients()
        grad_norm = self.model.clip_grad_norm(self.config.max_grad_norm)
        self.model.step()
        self._time.mark()
        return sums, grad_norm

    @property
    def _shows_progress(self) -> bool:
        return self.workspace.show_progress and self.runtime.group.rank == 0

    def _global_num_terms(self, micro_terms: Sequence[float]) -> float:
        readers = self.runtime.readers
        if readers.sum_scalar(len(micro_terms)) != len(micro_terms) * readers.size:
            raise CollectiveError(
                f"rank {self.runtime.group.rank} has {len(micro_terms)} micro-batches in step "
                f"{self.step + 1}, others have another number; a source must hand every rank equally many"
            )
        num_terms = readers.sum_scalar(sum(micro_terms))
        if num_terms <= 0:
            raise DataError(
                f"step {self.step + 1} has {len(micro_terms)} micro-batches but no target to learn from; "
                "check that the data has tokens with a loss weight above 0 (for SFT: assistant turns that "
                "fit into the sequence length)"
            )
        return num_terms

    def _global_means(self, sums: Sequence[LossSum], num_terms: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Add loss and metrics over micro-batches and ranks, in one small collective."""
        names = sorted(sums[0].metrics)
        rows = [
            torch.stack([item.loss.float(), *(item.metrics[name].detach().float() for name in names)])
            for item in sums
        ]
        means = self.runtime.mesh.group("data").all_reduce(torch.stack(rows).sum(dim=0)) / num_terms
        return means[0], dict(zip(names, means[1:], strict=True))

    def _after_step(self, advance: Callable[[float | None], None]) -> None:
        config = self.config
        done = self.step == config.steps
        logs = done or self.step % config.log_every_steps == 0
        stops = logs and not done and self._is_asked_to_stop()
        saves = (
            done
            or stops
            or (config.checkpoint.every_steps > 0 and self.step % config.checkpoint.every_steps == 0)
        )
        evaluates = (
            self.evaluate is not None
            and config.eval_every_steps > 0
            and self.step % config.eval_every_steps == 0
        )
        advance(self._log() if logs or saves or evaluates else None)
        self._checkpointer.poll()
        self._throughput.pause()
        if self.evaluate is not None and evaluates:
            self._record(self.evaluate(self.step))
        if saves:  # after the log, which would have found a loss that is not finite, and after the evaluation
            with self._time.waiting("checkpoint_s"):
                self._save()
        if stops:
            raise StoppedError(
                f"asked to end, and saved the state after step {self.step} of {config.steps}; the same "
                f"command with output_dir={self.workspace.dir} continues from it"
            )
        self._throughput.go_on()

    def _is_asked_to_stop(self) -> bool:
        """Return whether any rank was, the same on all ranks: a state is saved by all or by none."""
        return self.runtime.group.sum_scalar(len(self._stop_request.received)) > 0

    def _log(self) -> float | None:
        """Fetch all numbers since the last call in one transfer; record the last step's, return its loss.

        It is None where an overflow that was left out has made it no number.
        """
        results, self._unlogged = self._unlogged, []
        rows = [torch.stack([r.loss_mean, r.grad_norm.float(), *r.metrics.values()]) for r in results]
        loss_max, *numbers = torch.cat([self._loss_max(results), *rows]).tolist()
        table = [numbers[start : start + len(rows[0])] for start in range(0, len(numbers), len(rows[0]))]
        left_out = [result.left_out for result in results]
        self._check(self._loss_watch.first_offence(self.step - len(results) + 1, table, left_out))
        told = [loss_max, *table[-1]]
        loss_max, loss, grad_norm, *metrics = map(_finite, told) if any(left_out) else told
        num_tokens = self.runtime.readers.sum_scalar(self._unlogged_tokens)
        self.tokens_seen += num_tokens
        self._unlogged_tokens = 0
        values: dict[str, float | None] = {"loss": loss, "grad_norm": grad_norm, "loss_max": loss_max}
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        values["tokens_seen"] = self.tokens_seen
        values.update(self._throughput.read(num_tokens))
        values.update(zip(results[-1].metrics, metrics, strict=True))
        for meter in self.meters:
            values.update(meter())
        self._record(values)
        return loss

    def _loss_max(self, results: Sequence[StepResult]) -> Tensor:
        """Return the largest mean loss of any micro-batch of any rank, (1,): a bad batch shows here first."""
        sums = torch.cat([result.micro_losses for result in results if result.micro_losses is not None])
        sums = self.runtime.mesh.group("cp").all_reduce(sums)  # whose ranks hold parts of the same tokens
        terms = sums.new_tensor([terms for result in results for terms in result.micro_terms])
        means = torch.where(terms > 0, sums / terms, -math.inf)
        return self.runtime.readers.all_reduce(means.max().reshape(1), ReduceOp.max)

    def _check(self, offence: tuple[int, str] | None) -> None:
        """Raise DivergedError for a step that went wrong, the same on all ranks."""
        if self.config.rollback.max_times:  # who goes back must not do so alone
            offence = self.runtime.group.broadcast_object(offence)
        if offence is not None:
            step, reason = offence
            raise DivergedError(
                step,
                f"step {step}: {reason}, so training has diverged; lower optim.lr "
                f"({self.optimizer.param_groups[0]['lr']:g} now), warm up longer, set max_grad_norm=1, or "
                "let the run go back by itself (rollback.max_times=3)",
            )

    def _record(self, values: Mapping[str, float | None]) -> None:
        if self.runtime.group.rank == 0:
            self.workspace.metrics.write(self.step, values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
