import threading
import time

import pytest

from backends.cpu.device import CpuDevice
from backends.cpu.stream import HostEvent, HostStream
from portable.core.errors import CapabilityError


def test_events_keep_time():
    start, end = HostEvent(timing=True), HostEvent(timing=True)
    start.record()
    time.sleep(0.02)
    end.record()
    assert 15 < start.elapsed_time(end) < 5000
    assert end.elapsed_time(start) == -start.elapsed_time(end)
    assert start.query()


def test_time_is_refused_where_none_was_kept():
    timed, untimed = HostEvent(timing=True), HostEvent()
    untimed.record()
    with pytest.raises(CapabilityError, match="call record"):
        timed.elapsed_time(timed)
    timed.record()
    with pytest.raises(CapabilityError, match="timing=True"):
        timed.elapsed_time(untimed)


def test_every_call_on_a_stream_works():
    stream, event = HostStream(), HostEvent(timing=True)
    assert stream.record_event(event) is event
    assert event.elapsed_time(event) == 0
    stream.record_event().wait(stream)
    stream.wait_event(event)
    stream.wait_stream(HostStream())
    stream.synchronize()
    event.synchronize()


def test_the_current_stream_is_that_of_the_block_and_of_the_thread():
    device = CpuDevice()
    outside, inner = device.current_stream(), device.new_stream()
    seen = []
    with device.use_stream(inner):
        assert device.current_stream() is inner
        thread = threading.Thread(target=lambda: seen.append(device.current_stream()))
        thread.start()
        thread.join()
        with pytest.raises(ZeroDivisionError), device.use_stream(device.new_stream()):
            _ = 1 / 0
        assert device.current_stream() is inner
    assert device.current_stream() is outside
    assert seen == [outside]
