"""What a test asks of a fresh process: names of the simulated devices."""

from __future__ import annotations

from typing import Any

import torch

from backends.sim.runtime import activate
from portable.core.errors import BackendUnavailable


def twice() -> dict[str, Any]:
    first = activate("chip", "chipccl", num_devices=3)
    message = ""
    try:
        activate()
    except BackendUnavailable as error:
        message = str(error)
    return {
        "same": activate("chip", "chipccl", num_devices=3) is first,
        "message": message,
        "device": str(torch.ones(2, device="chip:2").device),
        "communicator": torch.distributed.get_default_backend_for_device("chip"),
    }


def taken() -> str:
    torch.utils.rename_privateuse1_backend("other")
    try:
        activate()
    except BackendUnavailable as error:
        return str(error)
    return ""


def device(like: str) -> dict[str, Any]:
    """Make the device as a job would, and look at what it refuses."""
    from backends.sim.backend import SimBackend
    from portable.device.capability import Role
    from portable.hardware.spec import Figure, HardwareConfig

    backend = SimBackend()
    backend.configure(
        HardwareConfig(
            name="sim", backend="sim", like=like, devices_per_node=2, memory_gib=Figure(value=0.25)
        )
    )
    made = backend.device()
    refused = ""
    ones = torch.ones(2, 2, device=made.torch_device(), dtype=torch.float64)
    try:
        ones @ ones
    except NotImplementedError as error:
        refused = str(error)
    stream, event = made.new_stream(), made.new_event(timing=True)
    with made.use_stream(stream):
        event.record()
    stream.wait_stream(made.current_stream())
    event.synchronize()
    made.synchronize()
    return {
        "name": made.name,
        "arch": made.arch,
        "title": made.info().name,
        "count": made.count(),
        "total_bytes": made.memory().total_bytes,
        "refused": refused,
        "fp64": made.capability().dtype(Role.matmul, "fp64").name,
        "mean": made.capability().reduce_ops["mean"].name,
        "communicator": made.capability().communicator,
        "pinned": made.pin(torch.ones(2)).is_pinned(),
    }
