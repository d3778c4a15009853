"""What a checkpoint holds: slices of tensors, and each rank's own small host state."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from portable.core.random import host_rng_state, set_host_rng_state
from portable.core.storage import atomic_path, explain_os_errors
from portable.data.source import BatchSource
from portable.device.protocol import Device
from portable.parallel.mesh import Mesh
from portable.parallel.strategy import Strategy
from portable.train.checkpoint.slice import Slice


def shape_digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """Identify what a checkpoint fits: names and whole shapes of weights and optimiser state."""
    listed = sorted((name, list(shape)) for name, shape in shapes.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def tensor_state(strategy: Strategy, mesh: Mesh) -> dict[str, Slice]:
    """Return weights and optimiser state under the model's own names, whatever lays them out; no copy is
    made where none is needed.
    """
    slices: dict[str, Slice] = {}
    for name, (tensor, shard) in strategy.state().items():
        if shard is None:
            slices[name] = Slice.of_whole(tensor)
        else:
            slices[name] = Slice(tensor, shard.placement.shape, shard.placement.extent(mesh).offset)
    return slices


def save_host_state(path: Path, source: BatchSource, device: Device, counters: dict[str, float]) -> None:
    """Write this rank's data position, counters and random streams."""
    state = {
        "source": source.state_dict(),
        "counters": counters,
        "host_rng": host_rng_state(),
        "device_rng": device.rng_state(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_host_state(path: Path) -> dict[str, Any]:  # Any: what the source and the generators call their state
    """Read what ``save_host_state`` wrote; only plain values and tensors are accepted."""
    with explain_os_errors(path, "read"):
        return torch.load(path, map_location="cpu", weights_only=True)


def apply_host_state(state: dict[str, Any], source: BatchSource, device: Device, *, same_rank: bool) -> None:
    """Go to the saved data position, which counts samples of all ranks, and restore the random streams.

    Streams belong to a rank; where the number of ranks has changed there is nothing to restore them from.
    """
    source.load_state_dict(state["source"])
    if same_rank:
        set_host_rng_state(state["host_rng"])
        device.set_rng_state(state["device_rng"])


def on_host(tensor: Tensor, device: Device) -> Tensor:
    """Return a copy on the host, in torch's plain layout."""
    return device.to_portable(tensor).detach().to("cpu", copy=True)
