"""A device module like ``torch.cuda`` that computes nothing, and remembers what it was asked."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

from portable.device.capability import Capability, Feature, Role

GIB = 2**30


class RecordingModule:
    """Two devices of 16 GiB; the calls lie in ``calls`` as (name, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.index = 0
        self.rng = {0: "state 0", 1: "state 1"}
        self.streams = ["main"]

    def device_count(self) -> int:
        return 2

    def current_device(self) -> int:
        return self.index

    def set_device(self, index: int) -> None:
        self.index = index

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=f"Recorder {index}", multi_processor_count=7)

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return 4 * GIB, 16 * GIB

    def memory_allocated(self, index: int) -> int:
        return 3 * GIB

    def memory_reserved(self, index: int) -> int:
        return 5 * GIB

    def max_memory_allocated(self, index: int) -> int:
        return 6 * GIB

    def Stream(self) -> str:
        return "side"

    def current_stream(self) -> str:
        return self.streams[-1]

    @contextlib.contextmanager
    def stream(self, stream: str):
        self.streams.append(stream)
        yield
        self.streams.pop()

    def Event(self, *, enable_timing: bool) -> str:
        return "timed event" if enable_timing else "event"

    def get_rng_state(self, index: int) -> str:
        return self.rng[index]

    def set_rng_state(self, state: str, index: int) -> None:
        self.rng[index] = state

    def synchronize(self) -> None:
        self.calls.append(("synchronize", ()))

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache", ()))

    def reset_peak_memory_stats(self) -> None:
        self.calls.append(("reset_peak_memory_stats", ()))

    def manual_seed(self, seed: int) -> None:
        self.calls.append(("manual_seed", (seed,)))


def capability(*features: Feature, compilers: tuple[str, ...] = ()) -> Capability:
    """Return a record of a made-up chip."""
    return Capability(
        arch="made-up",
        communicator="wires",
        dtypes={role: {} for role in Role},
        reduce_ops={},
        collectives={},
        features=features,
        compile_backends=compilers,
    )
