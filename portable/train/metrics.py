"""Numbers about a training run: where they go, and how speed is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from portable.core.storage import explain_os_errors


class TensorBoardSink:
    """Writes every known number as a scalar that TensorBoard shows."""

    def __init__(self, path: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = path
        with explain_os_errors(path):
            self._writer = SummaryWriter(str(path))

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values that are known."""
        with explain_os_errors(self.path):
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        with explain_os_errors(self.path):
            self._writer.close()


class Throughput:
    """Tokens per second and model FLOPs utilisation since the last reading; what happens in ``pause`` does
    not count.
    """

    def __init__(
        self,
        *,
        world_size: int = 1,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.world_size = world_size
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self._clock = clock
        self._paused_at: float | None = None
        self._start = clock()

    def restart(self) -> None:
        """Forget the time until now."""
        self._start = self._clock()

    def pause(self) -> None:
        """Stop the clock, e.g. for an evaluation."""
        self._paused_at = self._clock()

    def go_on(self) -> None:
        """Start the clock again."""
        if self._paused_at is not None:
            self._start += self._clock() - self._paused_at
            self._paused_at = None

    def read(self, num_tokens: float) -> dict[str, float | None]:
        """Return the speed over ``num_tokens`` (of all ranks) since the last reading, and begin anew.

        MFU is None where the FLOPs of the model or the peak of the hardware are not known.
        """
        now = self._clock()
        elapsed_s = max(now - self._start, 1e-9)
        self._start = now
        tokens_per_s = num_tokens / elapsed_s
        mfu = None
        if self.flops_per_token is not None and self.peak_flops is not None:
            mfu = self.flops_per_token * tokens_per_s / (self.peak_flops * self.world_size)
        return {"tokens_per_s": tokens_per_s, "mfu": mfu}
