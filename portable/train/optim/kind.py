"""What each parameter is, by its place in the model before anything cuts it; optimisers treat kinds apart."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from torch import nn


class Kind(Enum):
    """What a parameter does to a token."""

    embedding = "embedding"  # is looked up, not multiplied
    hidden = "hidden"  # a matrix (or one an expert) inside a repeated block
    outer = "outer"  # a matrix outside them, e.g. the head
    vector = "vector"  # a norm's weight, a bias


Kinds = Mapping[str, Kind]


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """Return the kind of every parameter by its name."""
    embeddings = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for own, _ in module.named_parameters(recurse=False)
    }
    repeated = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.ModuleDict))
    )
    return {
        name: _kind(name, parameter.ndim, name in embeddings, repeated)
        for name, parameter in model.named_parameters()
    }


def _kind(name: str, ndim: int, is_embedding: bool, repeated: tuple[str, ...]) -> Kind:
    if is_embedding:
        return Kind.embedding
    if ndim < 2:
        return Kind.vector
    return Kind.hidden if name.startswith(repeated) else Kind.outer
