"""A model's whole weights, out of whatever layout holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from portable.device.protocol import Device
from portable.parallel.gather import gather_whole
from portable.parallel.gradient import local
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, original_name


def whole_weights(
    shards: Sequence[ParameterShard], mesh: Mesh, device: Device
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter of the model, whole, on the host of every rank, one at a time.

    All ranks must call and go through to the end. The memory beyond the model's is one parameter's.
    """
    own = {shard.name: shard for shard in shards}
    stages = mesh.group("pp")
    where = device.torch_device(mesh.world.local_rank)
    told: set[str] = set()
    for source, held in enumerate(whole_forms(shards, mesh)):
        for name, (shape, dtype) in held.items():
            if name in told:
                continue
            told.add(name)
            if source == stages.rank:
                shard = own[name]
                whole = gather_whole(local(shard.parameter).detach(), shard.placement, mesh)
            else:
                whole = torch.empty(shape, dtype=dtype, device=where)
            if stages.size > 1:
                whole = stages.broadcast(whole, source)
            yield name, device.to_portable(whole).to("cpu", copy=True)


def whole_forms(
    shards: Sequence[ParameterShard], mesh: Mesh
) -> list[dict[str, tuple[tuple[int, ...], torch.dtype]]]:
    """Return the whole shape and the dtype of every parameter, for each pipeline stage; all ranks call."""
    own = {shard.name: (shard.placement.shape, local(shard.parameter).dtype) for shard in shards}
    stages = mesh.group("pp")
    return stages.all_gather_object(own) if stages.size > 1 else [own]


def whole_buffers(parts: Iterable[nn.Module], mesh: Mesh) -> dict[str, Tensor]:
    """Return the trained buffers of all pipeline stages on every rank's host; all ranks call."""
    own = {name: buffer.cpu() for name, buffer in trained_buffers(parts)}
    stages = mesh.group("pp")
    held = stages.all_gather_object(own) if stages.size > 1 else [own]
    return {name: buffer for buffers in held for name, buffer in buffers.items()}


def trained_buffers(parts: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that are part of the model, e.g. a router's bias: torch calls them persistent. They
    are whole, and the same on all ranks that hold the layer.
    """
    for part in parts:
        persistent = part.state_dict(keep_vars=True).keys()
        for name, buffer in part.named_buffers():
            if name in persistent:
                yield original_name(name), buffer
