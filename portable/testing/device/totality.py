"""Every member of every Protocol answers, on every backend: found by reflection, so none can be forgotten."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import pytest
import torch

from portable.collective.protocol import Group
from portable.device.backend import Backend
from portable.device.capability import Feature
from portable.device.protocol import Device, Dtype
from portable.device.stream import Event, Stream
from portable.hardware.spec import HardwareConfig

# How to call each member; a property needs no call. A member that is missing here fails the suite.
BACKEND_CALLS: dict[str, Callable[[Any, HardwareConfig], Any]] = {  # Any: a backend and what it returns
    "name": lambda backend, _: backend.name,
    "priority": lambda backend, _: backend.priority,
    "visible_devices": lambda backend, _: backend.visible_devices,
    "probe": lambda backend, _: backend.probe(),
    "environment": lambda backend, _: backend.environment(deterministic=True),
    "configure": lambda backend, hardware: backend.configure(hardware),
    "findings": lambda backend, _: backend.findings(),
    "device": lambda backend, _: backend.device(),
    "group": lambda backend, _: backend.group(10.0),
}
DEVICE_CALLS: dict[str, Callable[[Any], Any]] = {  # Any: a device and what it returns
    "name": lambda device: device.name,
    "vendor": lambda device: device.vendor,
    "torch_type": lambda device: device.torch_type,
    "arch": lambda device: device.arch,
    "count": lambda device: device.count(),
    "torch_device": lambda device: device.torch_device(),
    "set_index": lambda device: device.set_index(0),
    "info": lambda device: device.info(),
    "capability": lambda device: device.capability(),
    "supports": lambda device: device.supports(Feature.pinned_memory),
    "synchronize": lambda device: device.synchronize(),
    "new_stream": lambda device: device.new_stream(),
    "current_stream": lambda device: device.current_stream(),
    "use_stream": lambda device: device.use_stream(device.new_stream()),
    "new_event": lambda device: device.new_event(),
    "record_stream": lambda device: device.record_stream(_tensor(device), device.new_stream()),
    "pin": lambda device: device.pin(torch.ones(4)),
    "to_portable": lambda device: device.to_portable(_tensor(device)),
    "empty_cache": lambda device: device.empty_cache(),
    "memory": lambda device: device.memory(),
    "reset_peak_memory": lambda device: device.reset_peak_memory(),
    "seed": lambda device: device.seed(0),
    "rng_state": lambda device: device.rng_state(),
    "set_rng_state": lambda device: device.set_rng_state(device.rng_state()),
    "generator": lambda device: device.generator(0),
    "autocast": lambda device: device.autocast(Dtype.fp32),
    "set_deterministic": lambda device: device.set_deterministic(False),
    "compile": lambda device: device.compile(_identity),
}
STREAM_CALLS: dict[str, Callable[[Any, Device], Any]] = {  # Any: a stream and what it returns
    "wait_stream": lambda stream, device: stream.wait_stream(device.current_stream()),
    "wait_event": lambda stream, device: stream.wait_event(_recorded(device)),
    "record_event": lambda stream, _: stream.record_event(),
    "synchronize": lambda stream, _: stream.synchronize(),
}
EVENT_CALLS: dict[str, Callable[[Any, Device], Any]] = {  # Any: an event and what it returns
    "record": lambda event, device: event.record(device.current_stream()),
    "wait": lambda event, device: event.wait(device.new_stream()),
    "synchronize": lambda event, _: event.synchronize(),
    "query": lambda event, _: event.query(),
    "elapsed_time": lambda event, device: event.elapsed_time(_recorded(device)),
}
PROTOCOLS: dict[type, dict[str, Any]] = {  # Any: calls of each Protocol's own shape
    Backend: BACKEND_CALLS,
    Device: DEVICE_CALLS,
    Stream: STREAM_CALLS,
    Event: EVENT_CALLS,
}


class TestTotality:
    """Nothing of a Protocol is missing, and nothing answers None where an answer was promised."""

    @pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.__name__)
    def test_this_suite_calls_all_there_is(self, protocol: type) -> None:
        """A member that is added to a Protocol must be added to the suite."""
        assert set(PROTOCOLS[protocol]) == set(members(protocol))

    @pytest.mark.parametrize("member", BACKEND_CALLS)
    def test_backend(self, backend: Backend, hardware: HardwareConfig, member: str) -> None:
        result = BACKEND_CALLS[member](backend, hardware)
        if member == "group":
            result.close()
        _check(Backend, member, result)

    @pytest.mark.parametrize("member", DEVICE_CALLS)
    def test_device(self, device: Device, member: str) -> None:
        _check(Device, member, DEVICE_CALLS[member](device))

    @pytest.mark.parametrize("member", STREAM_CALLS)
    def test_stream(self, device: Device, member: str) -> None:
        _check(Stream, member, STREAM_CALLS[member](device.new_stream(), device))

    @pytest.mark.parametrize("member", EVENT_CALLS)
    def test_event(self, device: Device, member: str) -> None:
        _check(Event, member, EVENT_CALLS[member](_recorded(device), device))


def members(protocol: type) -> list[str]:
    """Return the public names that a Protocol declares."""
    return [name for name in vars(protocol) if not name.startswith("_")]


def _check(protocol: type, member: str, result: Any) -> None:  # Any: what the member returned
    """Fail if ``result`` is not of the kind that the Protocol's annotation promises."""
    declared = vars(protocol)[member]
    function = declared.fget if isinstance(declared, property) else declared
    words = {"torch": torch, "Group": Group, "Device": Device, "HardwareConfig": HardwareConfig}
    hints = typing.get_type_hints(function, localns={**words, "Stream": Stream, "Event": Event})
    promised = hints["return"]
    if promised is type(None):
        assert result is None
    elif getattr(promised, "_is_protocol", False):
        absent = [name for name in members(promised) if not hasattr(result, name)]
        assert not absent, f"{type(result).__name__} is no {promised.__name__}: it lacks {absent}"
    elif promised is Any:
        assert result is not None
    elif promised is float:
        assert isinstance(result, (float, int))
    elif typing.get_origin(promised) is Callable or "Callable" in str(promised):
        assert callable(result)
    else:
        assert isinstance(result, typing.get_origin(promised) or promised)


def _recorded(device: Device) -> Event:
    event = device.new_event(timing=True)
    event.record(device.current_stream())
    device.synchronize()
    return event


def _tensor(device: Device) -> torch.Tensor:
    return torch.ones(4, device=device.torch_device())


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x
