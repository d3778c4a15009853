"""The seams by which a step is watched: the strategy and the metrics that the trainer is given.

The trainer knows nothing of it. It tells its strategy when a micro-batch begins, when its backward pass does,
and when all gradients are there; and it writes the loss when the step is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from portable.parallel.placement import ParameterShard, Placements
from portable.parallel.strategy import StepOptimizer, Strategy
from portable.trace.recording import Recording
from portable.trace.summary import summarise
from portable.trace.tracer import Phase, Tracer


class StepTraced(Exception):  # noqa: N818 - no error: it ends a training that has shown what it was run for
    """The traced step is done."""


class TracedStrategy:
    """The strategy ``inner``, which it hands everything to, and a witness of step ``step``, counted from 1.

    Modules and kernels are watched in its micro-batch ``micro_batch``, counted from 1.
    """

    def __init__(
        self, inner: Strategy, tracer: Tracer, recording: Recording, *, step: int, micro_batch: int
    ) -> None:
        self.inner = inner
        self.tracer = tracer
        self.recording = recording
        self._step, self._micro_batch = step, micro_batch
        self._now, self._place = 1, 0  # the step and the micro-batch that go on
        self._module: nn.Module | None = None

    @property
    def name(self) -> str:
        """The registered name of the inner one."""
        return self.inner.name

    @property
    def needs_peers(self) -> bool:
        """What the inner one says."""
        return self.inner.needs_peers

    @property
    def done(self) -> bool:
        """Whether the step has its gradients."""
        return self._now > self._step

    @property
    def wraps_meta(self) -> bool:
        """Never: what is watched must have its weights."""
        return False

    def held(self) -> dict[str, list[Tensor]]:
        """Return what the inner one keeps."""
        return self.inner.held()

    @property
    def shards_parameters(self) -> bool:
        """What the inner one says."""
        return self.inner.shards_parameters

    @property
    def modules(self) -> list[nn.Module]:
        """Those of the inner one."""
        return self.inner.modules

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Hook all modules, then wrap."""
        self.tracer.watch(parts[0])
        self._module = parts[0]
        self.inner.wrap(parts, placements)

    def shards(self) -> list[ParameterShard]:
        """Return those of the inner one."""
        return self.inner.shards()

    def holdings(self) -> list[ParameterShard]:
        """Return those of the inner one."""
        return self.inner.holdings()

    def attach(self, optimizer: StepOptimizer) -> None:
        """Hand the optimiser on."""
        self.inner.attach(optimizer)

    def accumulate(self, *, last: bool) -> None:
        """Begin a micro-batch."""
        self.inner.accumulate(last=last)
        self._place += 1
        if self._now != self._step:
            return
        if self._place == 1 and self._module is not None:
            named = self._module.named_parameters()
            self.recording.parameters = {name: summarise(parameter) for name, parameter in named}
        if self._place == self._micro_batch:
            self.tracer.phase = Phase.forward

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a micro-batch."""
        if self._now == self._step:
            self.recording.losses.append(float(loss.detach()))
        if self.tracer.phase is not Phase.forward:
            self.inner.backward(loss)
            return
        self.tracer.phase = Phase.backward
        self.inner.backward(loss)
        self.tracer.end_backward()

    def reduce_gradients(self) -> None:
        """Hand it on."""
        self.inner.reduce_gradients()

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Note the gradients of all parameters, then clip them; the update comes next."""
        if self._now == self._step and self._module is not None:
            self.recording.gradients = {
                name: summarise(parameter.grad)
                for name, parameter in self._module.named_parameters()
                if parameter.grad is not None
            }
            self.tracer.phase = Phase.update
        self._now, self._place = self._now + 1, 0
        return self.inner.clip_grad_norm(max_norm)

    def step(self) -> None:
        """Hand it on."""
        self.inner.step()

    def skip(self) -> None:
        """Hand it on."""
        self.inner.skip()

    def publish(self) -> None:
        """Hand it on."""
        self.inner.publish()

    def state(self) -> dict[str, tuple[Tensor, ParameterShard | None]]:
        """Return that of the inner one."""
        return self.inner.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Hand it on."""
        self.inner.load_state(state)

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was set up."""
        return self.inner.describe()


class StepSink:
    """Ends the training when the trainer reports the traced step, and keeps the numbers it reports."""

    def __init__(self, strategy: TracedStrategy) -> None:
        self._strategy = strategy
        self.values: dict[str, float | None] = {}

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Raises: StepTraced, once the step is done."""
        if self._strategy.done and "loss" in values:
            self.values = dict(values)
            raise StepTraced

    def close(self) -> None:
        """Do nothing."""
