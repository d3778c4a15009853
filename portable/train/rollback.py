"""When a step has gone wrong: a loss that is not finite, or far above those before it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

from portable.core.errors import PortableError
from portable.train.config import RollbackConfig

_LEAST_SPREAD = 0.01  # of the mean: a loss that hardly moves would make a spike of any rounding


class DivergedError(PortableError):
    """Training has gone wrong at ``step``."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class LossWatch:
    """Judges losses by those before them, and counts how often a run went back."""

    def __init__(self, config: RollbackConfig) -> None:
        self.config = config
        self.num_rollbacks = 0
        self._losses: deque[float] = deque(maxlen=config.window)

    @property
    def may_go_back(self) -> bool:
        """Whether the run may return to its last checkpoint once more."""
        return self.num_rollbacks < self.config.max_times

    def first_offence(
        self, first_step: int, rows: Sequence[Sequence[float]], left_out: Sequence[bool] = ()
    ) -> tuple[int, str] | None:
        """Return the first step that went wrong and what is wrong with it, or None.

        A row of a step begins with its loss and gradient norm; those before an offence are remembered. Steps
        that were ``left_out`` changed nothing: an overflow of fp16 is the loss scale's to mend.
        """
        for step, (loss, grad_norm, *_) in enumerate(rows, start=first_step):
            if left_out and left_out[step - first_step]:
                continue
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                return step, f"the loss is {loss:g} and the gradient norm {grad_norm:g}"
            bound = self._bound()
            if bound is not None and loss > bound:
                mean = statistics.fmean(self._losses)
                return step, f"the loss is {loss:g}, after a mean of {mean:g} over {len(self._losses)} steps"
            self._losses.append(loss)
        return None

    def state_dict(self) -> dict[str, Any]:  # Any: a number and a list of numbers
        """Return what a run that resumes must know to judge alike."""
        return {"losses": list(self._losses), "num_rollbacks": self.num_rollbacks}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # Any: as in state_dict
        """Restore what ``state_dict`` returned."""
        self._losses = deque(state["losses"], maxlen=self.config.window)
        self.num_rollbacks = state["num_rollbacks"]

    def _bound(self) -> float | None:
        """Return the highest loss that is no spike; None while too few are known, or if nobody asked."""
        config = self.config
        if not (config.max_times and config.spike_stds) or len(self._losses) < config.window:
            return None
        mean = statistics.fmean(self._losses)
        spread = max(statistics.pstdev(self._losses), _LEAST_SPREAD * abs(mean))
        return mean + config.spike_stds * spread
