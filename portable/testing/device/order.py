"""Order: what runs on another stream gives the right numbers when, and because, the right waits stand."""

from __future__ import annotations

import torch
from torch import Tensor

from portable.device.protocol import Device

SIZE = 2**20  # large enough that a device is still at work when the host goes on


class TestStreams:
    """Streams are objects everywhere; where nothing overlaps, their waits cost nothing."""

    def test_a_stream_is_current_inside_its_block_only(self, device: Device) -> None:
        before, side = device.current_stream(), device.new_stream()
        assert before != side
        with device.use_stream(side):
            assert device.current_stream() == side
            with device.use_stream(before):
                assert device.current_stream() == before
            assert device.current_stream() == side
        assert device.current_stream() == before

    def test_streams_wait_for_each_other(self, device: Device) -> None:
        main, side = device.current_stream(), device.new_stream()
        x = _ones(device) * 3
        side.wait_stream(main)
        with device.use_stream(side):
            y = x * 2
            y += x
        main.wait_stream(side)
        device.record_stream(x, side)
        device.record_stream(y, main)
        assert _is_all(y + 1, 10.0)

    def test_streams_wait_for_marks(self, device: Device) -> None:
        main, side = device.current_stream(), device.new_stream()
        x = _ones(device) * 3
        ready, done = main.record_event(), device.new_event()
        side.wait_event(ready)
        with device.use_stream(side):
            x += 4
            done.record(side)
        done.wait(main)
        device.record_stream(x, side)
        assert _is_all(x, 7.0)

    def test_the_host_waits_for_one_stream(self, device: Device) -> None:
        side = device.new_stream()
        side.wait_stream(device.current_stream())
        with device.use_stream(side):
            x = _ones(device) + 1
        side.synchronize()
        device.record_stream(x, side)
        assert _is_all(x, 2.0)

    def test_batches_are_copied_while_others_are_computed(self, device: Device) -> None:
        """A loader that runs ahead: copy on one stream, compute on another, hand over by a wait."""
        main, copying = device.current_stream(), device.new_stream()
        total = torch.zeros((), device=device.torch_device())
        for step in range(8):
            host = device.pin(torch.full((SIZE // 8,), float(step)))
            with device.use_stream(copying):
                batch = host.to(device.torch_device(), non_blocking=True)
            main.wait_stream(copying)
            device.record_stream(batch, main)
            total += batch.mean()
        assert total.item() == sum(range(8))


class TestEvents:
    """Marks are reached, and tell the time between them."""

    def test_a_mark_is_reached_after_the_work_before_it(self, device: Device) -> None:
        event = device.new_event()
        x = _ones(device) + 1
        event.record(device.current_stream())
        event.synchronize()
        assert event.query()
        assert _is_all(x, 2.0)

    def test_time_passes_between_marks(self, device: Device) -> None:
        start, end = device.new_event(timing=True), device.new_event(timing=True)
        start.record(device.current_stream())
        x = _ones(device).reshape(1024, 1024)
        x = x @ x
        end.record(device.current_stream())
        end.synchronize()
        assert start.elapsed_time(end) > 0.0
        assert _is_all(x, 1024.0)


def _ones(device: Device) -> Tensor:
    return torch.ones(SIZE, device=device.torch_device())


def _is_all(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all().item())
