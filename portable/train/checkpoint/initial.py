"""The weights that a run begins with, from a model folder, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from portable.core.errors import ArtefactError
from portable.model.weight_stream import StoredWeights
from portable.model.weights import read_box, read_config, stored_shape
from portable.parallel.gradient import local
from portable.parallel.placement import Extent
from portable.parallel.spread import Fill
from portable.parallel.spread_model import SpreadModel
from portable.parallel.whole import trained_buffers


def hf_fill(path: Path) -> Fill:
    """Return what reads the boxes of a model folder's weights, no others, by our names.

    Raises: ArtefactError if the folder is no model's; when called, for a weight that is missing or of another
    shape.
    """
    stored, config = StoredWeights(path), read_config(path)

    def fill(name: str, whole_shape: tuple[int, ...], extent: Extent) -> Tensor:
        shape = stored_shape(stored, config, name, whole_shape[0])
        if shape != whole_shape:
            found = "is missing" if shape is None else f"has shape {shape}, but the model's is {whole_shape}"
            raise ArtefactError(
                f"{path}: '{name}' {found}; set model as in the folder's config.json, or name another folder "
                "(checkpoint.initial_load_path=PATH)"
            )
        return read_box(stored, config, name, extent.offset, extent.shape)

    return fill


@torch.no_grad()
def fill_weights(model: SpreadModel, fill: Fill) -> None:
    """Give ``model`` its weights, each rank its own parts only."""
    for shard in model.strategy.holdings():
        extent = shard.placement.extent(model.runtime.mesh)
        local(shard.parameter).copy_(fill(shard.name, shard.placement.shape, extent))
    for name, buffer in trained_buffers(model.parts):
        shape = tuple(buffer.shape)
        buffer.copy_(fill(name, shape, Extent((0,) * len(shape), shape)))
    model.strategy.publish()
