"""The next micro-batch is copied while one is in use, and nothing is read before its copy is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from portable.device.select import load_backend
from portable.train.transfer import Transfer
from tests.portable.train.support import rows_to_batch


class Recorder:
    """A device that writes down what it is asked, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = "main"

    def new_stream(self) -> Any:
        return RecordedStream("copy", self.log)

    def current_stream(self) -> Any:
        return RecordedStream(self.now, self.log)

    @contextlib.contextmanager
    def use_stream(self, stream: Any) -> Iterator[None]:
        before, self.now = self.now, stream.name
        yield
        self.now = before

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.log.append(f"pin on {self.now}")
        return tensor

    def record_stream(self, tensor: torch.Tensor, stream: Any) -> None:
        self.log.append(f"{stream.name} uses")


class RecordedStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append(f"mark on {self.name}")
        return f"mark of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


def test_the_copy_of_the_next_batch_is_queued_before_the_first_is_used():
    device = Recorder()
    batches = Transfer(device, torch.device("cpu")).each([rows_to_batch([0]), rows_to_batch([1])])
    next(batches)
    assert [line for line in device.log if "mark" in line] == [
        "mark on copy",
        "mark on copy",
        "main waits for mark of copy",
    ]
    assert "pin on main" not in device.log
    assert device.log.count("pin on copy") == 8  # four tensors of two batches
    assert device.log.count("main uses") == 4
    next(batches)
    assert device.log.count("main waits for mark of copy") == 2
    assert next(batches, None) is None


def test_batches_arrive_unchanged_and_in_order():
    originals = [rows_to_batch([row]) for row in range(3)]
    arrived = list(Transfer(load_backend("cpu").device(), torch.device("cpu")).each(originals))
    assert len(arrived) == 3
    for before, after in zip(originals, arrived, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before.tensors(), after.tensors(), strict=True))


def test_no_batch_is_no_work():
    device = Recorder()
    assert list(Transfer(device, torch.device("cpu")).each([])) == []
    assert device.log == []
