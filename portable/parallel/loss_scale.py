"""Loss scaling for fp16, whose smallest numbers are larger than many gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.gradient import local_gradient
from portable.parallel.placement import ParameterShard


class LossScale:
    """A factor on the loss that gradients are divided by again; 1 for formats that need none.

    Ranks agree by themselves: they judge by the norm of all gradients, which is the same on each. A loss that
    is not finite has such gradients, so it costs a step too, until no smaller factor is left to try.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, precision: PrecisionConfig) -> None:
        self.is_on = precision.compute_dtype is Dtype.fp16
        self.factor = precision.loss_scale.initial if self.is_on else 1.0
        self.num_skipped = 0
        self.is_spent = False
        """Whether the last step overflowed at the smallest factor, so that none would help."""
        self._config = precision.loss_scale
        self._good_steps = 0

    def unscale(self, shards: Sequence[ParameterShard]) -> None:
        """Divide the gradients by the factor."""
        gradients = [found for shard in shards if (found := local_gradient(shard)) is not None]
        if self.is_on and gradients:
            for gradient in gradients:
                gradient.mul_(1.0 / self.factor)

    def judge(self, grad_norm: Tensor) -> bool:
        """Return whether the step may be made, and choose the factor of the next; the host waits."""
        if not self.is_on:
            return True
        overflows = not bool(grad_norm.isfinite())
        self.is_spent = overflows and self.factor <= self._config.minimum
        if not overflows:
            self._good_steps += 1
            if self._good_steps >= self._config.growth_interval:
                self.factor, self._good_steps = self.factor * 2.0, 0
            return True
        self.num_skipped += 1
        self._good_steps = 0
        self.factor = max(self.factor / 2.0, self._config.minimum)
        return False

    def read(self) -> dict[str, float | None]:
        """Return the factor, and how many steps were left out so far."""
        return {"loss_scale": self.factor, "skipped_steps": float(self.num_skipped)} if self.is_on else {}

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint keeps."""
        return {"factor": self.factor, "good_steps": self._good_steps, "num_skipped": self.num_skipped}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take it back."""
        if self.is_on:
            self.factor = state["factor"]
            self._good_steps, self.num_skipped = int(state["good_steps"]), int(state["num_skipped"])
