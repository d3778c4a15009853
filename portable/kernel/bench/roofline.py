"""What this machine can do at most, measured: bytes copied a second, and FLOP/s of a matmul."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from portable.device.protocol import Device
from portable.kernel.bench.measure import measure

_COPY_BYTES = 2**28  # far beyond the caches of a processor
_MATMUL_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Roofline:
    """The two roofs: memory's and arithmetic's."""

    bytes_per_s: float
    flops_per_s: float

    def best_s(self, num_bytes: float, flops: float) -> float:
        """Return the least time that moving and computing so much can take, done side by side."""
        return max(num_bytes / self.bytes_per_s, flops / self.flops_per_s)


def measure_roofline(device: Device, dtype: torch.dtype) -> Roofline:
    """Measure both roofs on the device's first index; the best of several."""
    place = device.torch_device()
    source = torch.ones(_COPY_BYTES // 4, device=place)
    sink = torch.empty_like(source)
    a, b = (torch.ones(_MATMUL_SIZE, _MATMUL_SIZE, device=place, dtype=dtype) for _ in range(2))
    times = measure(device, {"copy": lambda: sink.copy_(source), "matmul": lambda: a @ b}, num_rounds=5)
    return Roofline(
        bytes_per_s=2 * _COPY_BYTES / times["copy"].min_s,
        flops_per_s=2 * _MATMUL_SIZE**3 / times["matmul"].min_s,
    )
