"""What a checkpoint holds: slices of tensors, and each rank's own small host state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.core.random import host_rng_state, set_host_rng_state
from portable.core.storage import atomic_path, explain_os_errors
from portable.data.source import BatchSource
from portable.device.protocol import Device
from portable.parallel.spread_model import SpreadModel
from portable.parallel.whole import trained_buffers
from portable.train.checkpoint.slice import Slice

MODEL, BUFFER = "model/", "buffer/"  # how the names of weights begin, and of buffers that training changes


def tensor_state(model: SpreadModel) -> dict[str, Slice]:
    """Return weights, optimiser state and trained buffers under the model's own names, whatever lays them
    out. No copy is made where none is needed.
    """
    slices: dict[str, Slice] = {}
    for name, (tensor, shard) in model.strategy.state().items():
        if shard is None:
            slices[name] = Slice.of_whole(tensor)
        else:
            extent = shard.placement.extent(model.runtime.mesh)
            slices[name] = Slice(tensor, shard.placement.shape, extent.offset)
    for name, buffer in trained_buffers(model.parts):
        slices[BUFFER + name] = Slice.of_whole(buffer)
    return slices


def load_tensor_state(model: SpreadModel, state: dict[str, Tensor]) -> None:
    """Take values of the form of ``tensor_state``, this rank's part of each."""
    model.strategy.load_state({name: value for name, value in state.items() if not name.startswith(BUFFER)})
    for name, buffer in trained_buffers(model.parts):
        buffer.copy_(state[BUFFER + name])


def pack_host_state(source: BatchSource, device: Device, counters: dict[str, Any]) -> bytes:
    """Return this rank's data position, counters and random streams as they are now."""
    state = {
        "source": source.state_dict(),
        "counters": counters,
        "host_rng": host_rng_state(),
        "device_rng": device.rng_state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def write_host_state(path: Path, packed: bytes) -> None:
    """Write what ``pack_host_state`` returned."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed)


def load_host_state(path: Path) -> dict[str, Any]:  # Any: what the source and the generators call their state
    """Read what ``write_host_state`` wrote; only plain values and tensors are accepted."""
    with explain_os_errors(path, "read"):
        return torch.load(path, map_location="cpu", weights_only=True)


def apply_host_state(
    state: dict[str, Any], source: BatchSource, device: Device, *, same_layout: bool
) -> None:
    """Go to the saved data position, which counts samples of all ranks, and restore the random streams.

    Streams belong to a rank's place in the layout; in another layout there is nothing to restore them from.
    """
    source.load_state_dict(state["source"])
    if same_layout:
        set_host_rng_state(state["host_rng"])
        device.set_rng_state(state["device_rng"])
