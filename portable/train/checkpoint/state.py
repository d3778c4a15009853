"""What a checkpoint holds: tensors that may be sharded, and each rank's own small host state."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from portable.core.random import host_rng_state, set_host_rng_state
from portable.core.storage import atomic_path, explain_os_errors
from portable.data.source import BatchSource
from portable.device.protocol import Device
from portable.train.optim.optimizer import Optimizer, trainable

# Frozen weights (below an adapter) come from their own model folder, not from every checkpoint.
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
Tensors = dict[str, Tensor]


def shape_digest(model: nn.Module, optimizer: Optimizer) -> str:
    """Identify what a checkpoint fits: names and full shapes of what is trained, kinds of optimiser."""
    shapes = sorted((name, list(parameter.shape)) for name, parameter in trainable(model))
    parts = [type(part).__name__ for part in optimizer.parts]
    return hashlib.sha256(json.dumps([shapes, parts]).encode()).hexdigest()


def tensor_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensors]:
    """Return model and optimiser tensors under the model's own names, whatever wraps it; no copy is made.

    An optimiser that has not stepped yet is given its (zero) state, so that the result has the same keys at
    every step.
    """
    weights = {
        name: value
        for name, value in get_model_state_dict(model, options=_OPTIONS).items()
        if isinstance(value, Tensor)
    }
    return {"model": weights, "optimizer": _flatten(_optimizer_state(model, optimizer)["state"])}


def load_tensor_state(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensors]) -> None:
    """Put tensors of ``tensor_state``'s form back."""
    weights: dict[str, Any] = dict(tensors["model"])  # Any: torch's wider value type
    set_model_state_dict(model, weights, options=_OPTIONS)
    whole = _optimizer_state(model, optimizer)
    whole["state"] = _unflatten(tensors["optimizer"])
    set_optimizer_state_dict(model, optimizer.parts, whole, options=_OPTIONS)


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


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:  # Any: torch's nested state
    return get_optimizer_state_dict(model, optimizer.parts, options=_OPTIONS)


def _flatten(state: dict[str, dict[str, Tensor]]) -> Tensors:
    return {f"{name}/{key}": value for name, entries in state.items() for key, value in entries.items()}


def _unflatten(flat: Tensors) -> dict[str, dict[str, Tensor]]:
    state: dict[str, dict[str, Tensor]] = {}
    for path, value in flat.items():
        name, _, key = path.rpartition("/")
        state.setdefault(name, {})[key] = value
    return state
