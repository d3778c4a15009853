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
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from portable.core.errors import CollectiveError, DataError, PortableError
from portable.core.record import Batch
from portable.core.workspace import Workspace
from portable.data.source import BatchSource
from portable.parallel.objective import LossSum, Objective
from portable.parallel.runtime import Runtime
from portable.parallel.spread import Fill, spread
from portable.train.checkpoint.checkpointer import Checkpointer
from portable.train.config import TrainConfig
from portable.train.metrics import Throughput
from portable.train.optim.build import build_optimizer
from portable.train.optim.kind import kinds_of
from portable.train.precision import forward_context
from portable.train.progress import progress_bar
from portable.train.schedule import lr_factor
from portable.train.transfer import Transfer

logger = logging.getLogger(__name__)
Evaluate = Callable[[int], Mapping[str, float]]


class DivergedError(PortableError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step did; means are over ``num_terms`` terms of all ranks.

    Tensors stay on the device.
    """

    loss_mean: Tensor
    grad_norm: Tensor
    num_terms: float
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Trainer:
    """Trains ``model`` on ``objective`` over the batches of ``source`` for ``config.steps`` optimiser steps.

    ``module`` is the model as given (its parameters may be cut and sharded in place), ``model`` what trains
    on all ranks. A model on the meta device takes its weights from ``fill``. ``evaluate`` is called with the
    number of steps done, every ``config.eval_every_steps``; its numbers are recorded.
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
        self._checkpointer = Checkpointer(
            workspace.checkpoint_dir, config.checkpoint, runtime, self.model.strategy, source
        )
        self._throughput = Throughput(
            world_size=runtime.group.size,
            flops_per_token=flops_per_token,
            peak_flops=runtime.hardware.peak_flops(runtime.precision.compute_dtype.name),
        )
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

        Raises: DivergedError, naming the step, if the loss or the gradient is not finite.
        """
        self.resume()
        self._throughput.restart()
        try:
            with progress_bar("training", self.step, self.config.steps, show=self._shows_progress) as advance:
                while self.step < self.config.steps:
                    batches = self.source.next_batches()
                    if not self.model.training:  # a source that samples, or an evaluation, left it so
                        self.model.train()
                    self._unlogged.append(self.train_step(batches))
                    self._unlogged_tokens += sum(batch.num_tokens for batch in batches)
                    self.step += 1
                    self._after_step(advance)
        finally:
            self._checkpointer.close()

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        restored = self._checkpointer.load()
        if restored is not None:
            self.step, counters = restored
            self.tokens_seen = counters["tokens_seen"]

    def train_step(self, batches: Sequence[Batch]) -> StepResult:
        """One optimiser step; the loss is a mean over its terms (target tokens for SFT, pairs for DPO).

        Raises: DataError if the step has no term to learn from; CollectiveError if ranks hold different
        numbers of micro-batches, which would let them wait for each other for ever.
        """
        group = self.runtime.group
        num_terms = self._global_num_terms(batches)
        # Wrappers talk to other ranks by themselves: what goes wrong there is told as the group tells it.
        with group.naming_ranks("the training step"):
            sums, grad_norm = self._forward_backward(batches, num_terms)
        loss_mean, metrics = self._global_means(sums, num_terms)
        return StepResult(loss_mean, grad_norm, num_terms, metrics)

    def _forward_backward(self, batches: Sequence[Batch], num_terms: float) -> tuple[list[LossSum], Tensor]:
        self.optimizer.set_lr_factor(lr_factor(self.step, self.config.steps, self.config.schedule))
        moved = self._transfer.each(batches)
        sums = self.model.forward_backward(moved, self.objective, 1.0 / num_terms)
        grad_norm = self.model.strategy.clip_grad_norm(self.config.max_grad_norm)
        self.model.strategy.step()
        return sums, grad_norm

    @property
    def _shows_progress(self) -> bool:
        return self.workspace.show_progress and self.runtime.group.rank == 0

    def _global_num_terms(self, batches: Sequence[Batch]) -> float:
        readers = self.runtime.readers
        if readers.sum_scalar(len(batches)) != len(batches) * readers.size:
            raise CollectiveError(
                f"rank {self.runtime.group.rank} has {len(batches)} micro-batches in step "
                f"{self.step + 1}, others have another number; a source must hand every rank equally many"
            )
        num_terms = readers.sum_scalar(sum(batch.num_terms for batch in batches))
        if num_terms <= 0:
            raise DataError(
                f"step {self.step + 1} has {len(batches)} micro-batches but no target to learn from; check "
                "that the data has tokens with a loss weight above 0 (for SFT: assistant turns that fit "
                "into the sequence length)"
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
        saves = done or (config.checkpoint.every_steps > 0 and self.step % config.checkpoint.every_steps == 0)
        evaluates = (
            self.evaluate is not None
            and config.eval_every_steps > 0
            and self.step % config.eval_every_steps == 0
        )
        logs = done or self.step % config.log_every_steps == 0
        advance(self._log() if logs or saves or evaluates else None)
        self._throughput.pause()
        if self.evaluate is not None and evaluates:
            self._record(self.evaluate(self.step))
        if saves:  # after the log, which would have found a loss that is not finite, and after the evaluation
            self._checkpointer.save(self.step, {"tokens_seen": self.tokens_seen})
        self._throughput.go_on()

    def _log(self) -> float:
        """Fetch all numbers since the last call in one transfer; record the last step's, return its loss."""
        results, self._unlogged = self._unlogged, []
        table = torch.stack(
            [torch.stack([r.loss_mean, r.grad_norm.float(), *r.metrics.values()]) for r in results]
        ).tolist()
        first = self.step - len(results) + 1
        for number, (loss, grad_norm, *_) in enumerate(table, start=first):
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise DivergedError(
                    f"step {number}: the loss is {loss:g} and the gradient norm {grad_norm:g}, so training "
                    f"has diverged; lower optim.lr ({self.optimizer.param_groups[0]['lr']:g} now), warm up "
                    "longer, or set max_grad_norm=1"
                )
        loss, grad_norm, *metrics = table[-1]
        num_tokens = self.runtime.readers.sum_scalar(self._unlogged_tokens)
        self.tokens_seen += num_tokens
        self._unlogged_tokens = 0
        values: dict[str, float | None] = {"loss": loss, "grad_norm": grad_norm}
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        values["tokens_seen"] = self.tokens_seen
        values.update(self._throughput.read(num_tokens))
        values.update(zip(results[-1].metrics, metrics, strict=True))
        self._record(values)
        return loss

    def _record(self, values: Mapping[str, float | None]) -> None:
        if self.runtime.group.rank == 0:
            self.workspace.metrics.write(self.step, values)
