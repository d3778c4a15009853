"""Whether a checkpoint fits a model and an optimiser, and where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Form:
    """The shape and the number format of a whole tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        """Return the shape."""
        return " × ".join(map(str, self.shape)) or "a number"


Forms = Mapping[str, Form]


def stored_forms(metadata: Metadata) -> dict[str, Form]:
    """Return what a checkpoint holds, from torch's own list of contents."""
    return {
        name: Form(tuple(found.size), found.properties.dtype)
        for name, found in metadata.state_dict_metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }


def shape_differences(stored: Forms, wanted: Forms) -> str:
    """Return in words the first differences between a checkpoint and what is to be filled, or "".

    Those of the model's weights hide those of the optimiser, which follow from them.
    """
    words = [text for name in _ordered(stored, wanted) if (text := _difference(name, stored, wanted))]
    own = [text for text in words if not text.startswith("optimizer/")] or words
    more = f"; and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    return "; ".join(own[:_SHOWN]) + more


def converted(stored: Forms, wanted: Forms) -> list[str]:
    """Return the names of tensors whose number format will change as they are read."""
    return [name for name, form in wanted.items() if name in stored and stored[name].dtype != form.dtype]


def _ordered(stored: Forms, wanted: Forms) -> list[str]:
    """Return all names, in the model's order where it has one."""
    return [*wanted, *sorted(stored.keys() - wanted.keys())]


def _difference(name: str, stored: Forms, wanted: Forms) -> str:
    if name not in stored:
        return f"{name} ({wanted[name]}) is not in the checkpoint"
    if name not in wanted:
        return f"{name} ({stored[name]}) is in the checkpoint only"
    if stored[name].shape != wanted[name].shape:
        return f"{name} is {stored[name]} in the checkpoint and {wanted[name]} here"
    return ""
