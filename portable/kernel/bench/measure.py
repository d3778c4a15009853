"""Times of functions that do the same: measured in turns, so that what disturbs one disturbs the others."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from portable.device.protocol import Device

_SAMPLE_MS = 20.0
_MAX_CALLS = 1000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds a call, of several rounds."""

    min_s: float
    median_s: float


def measure(
    device: Device, functions: Mapping[str, Callable[[], object]], num_rounds: int = 7
) -> dict[str, Times]:
    """Call every function in every round, often enough for about 20 ms, and return the times of a call."""
    num_calls: dict[str, int] = {}
    for name, function in functions.items():
        function()  # warms up: compiles, allocates
        once_ms = _elapsed_ms(device, function, 1)
        num_calls[name] = max(1, min(_MAX_CALLS, round(_SAMPLE_MS / max(once_ms, 1e-3))))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            samples[name].append(_elapsed_ms(device, function, num_calls[name]) / num_calls[name] / 1e3)
    return {name: Times(min(values), statistics.median(values)) for name, values in samples.items()}


def _elapsed_ms(device: Device, function: Callable[[], object], num_calls: int) -> float:
    begin, end = device.new_event(timing=True), device.new_event(timing=True)
    device.synchronize()
    begin.record(device.current_stream())
    for _ in range(num_calls):
        function()
    end.record(device.current_stream())
    device.synchronize()
    return begin.elapsed_time(end)
