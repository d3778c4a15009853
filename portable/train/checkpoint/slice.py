"""A part of a tensor that says where it lies in the whole, in the words of torch's distributed checkpoints.

Every layout is boxes inside whole tensors. A checkpoint stores boxes by name and place, so one written in any
layout is read in any other: the reader asks for its own boxes and gets what overlaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True, slots=True)
class Slice:
    """``data`` is the box at ``offset`` of a tensor of ``whole_shape``."""

    data: Tensor
    whole_shape: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def of_whole(cls, tensor: Tensor) -> Slice:
        """Return the slice that is all of ``tensor``."""
        return cls(tensor, tuple(tensor.shape), (0,) * tensor.ndim)

    def __create_write_items__(self, fqn: str, item: object) -> list[WriteItem]:
        """Return what this rank writes; two ranks that hold the same box are sorted out by torch."""
        index = MetadataIndex(fqn, torch.Size(self.offset))
        properties = TensorProperties(dtype=self.data.dtype)
        facts = [
            TensorWriteData(chunk, properties, torch.Size(self.whole_shape))
            for chunk in self.__create_chunk_list__()
        ]
        return [WriteItem(index, WriteItemType.SHARD, tensor_data=fact) for fact in facts]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Return the box; a rank that was left without a part has none."""
        if self.data.numel() == 0:
            return []
        return [ChunkStorageMetadata(torch.Size(self.offset), torch.Size(self.data.shape))]


class SlicePlanner(DefaultSavePlanner):
    """Saves slices."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """Return the data at ``index``."""
        return self.state_dict[index.fqn].data


class SliceLoadPlanner(DefaultLoadPlanner):
    """Loads slices."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)

    def set_up_planner(
        self,
        state_dict: dict[str, Any],  # Any: slices, by torch's signature
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Keep the slices as they are: torch's own drops whatever is no tensor or collection."""
        self.original_state_dict = self.state_dict = state_dict
        self.metadata = metadata
        self.is_coordinator = is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """Return the data at ``index``."""
        return self.state_dict[index.fqn].data
