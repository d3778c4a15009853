"""A trained model, in whatever layout, to a model folder: one weight at a time passes through the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from portable.model.config import ModelConfig
from portable.model.hf.folder import save_hf_stream
from portable.model.hf.names import StoredNames
from portable.model.tokenizer import Tokenizer
from portable.model.weight_stream import MAX_SHARD_BYTES, Fact
from portable.model.weights import save_stream
from portable.parallel.spread_model import SpreadModel
from portable.parallel.whole import whole_buffers, whole_forms, whole_weights

Save = Callable[[Mapping[str, Fact], Iterable[tuple[str, Tensor]]], None]


class Merge(Protocol):
    """How the weights that trained become those of the model that is written, e.g. an adapter's."""

    def name(self, trained: str) -> str | None:
        """Return what a weight is called in the model; None for what only goes into others."""
        ...

    def weight(self, trained: str, value: Tensor) -> Tensor:
        """Return the weight of the model, of the same shape and format."""
        ...


def export_model(
    model: SpreadModel,
    config: ModelConfig,
    tokenizer: Tokenizer,
    path: Path,
    *,
    merge: Merge | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Let rank 0 write a model folder that ``transformers`` loads; return the number of parameters.

    All ranks must call. Raises: ArtefactError or StorageError on rank 0, as ``save_model``.
    """

    def save(facts: Mapping[str, Fact], weights: Iterable[tuple[str, Tensor]]) -> None:
        save_stream(facts, weights, config, tokenizer, path, max_shard_bytes=max_shard_bytes)

    return _export(model, save, merge or _AsTrained())


def export_hf(
    model: SpreadModel,
    names: StoredNames,
    tokenizer: Tokenizer,
    path: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> int:
    """Do so for an ``HfDecoder``: into the form of the folder it came from, whose ``names`` these are."""

    def save(facts: Mapping[str, Fact], weights: Iterable[tuple[str, Tensor]]) -> None:
        save_hf_stream(facts, weights, names, tokenizer, path, max_shard_bytes=max_shard_bytes)

    return _export(model, save, _AsTrained())


def _export(model: SpreadModel, save: Save, merge: Merge) -> int:
    """Let rank 0 save what all ranks hold parts of; return the number of parameters."""
    mesh, shards = model.runtime.mesh, model.strategy.holdings()
    facts: dict[str, Fact] = {}
    for held in whole_forms(shards, mesh):
        for trained, (shape, dtype) in held.items():
            if (name := merge.name(trained)) is not None:
                facts[name] = Fact(shape, dtype)
    num_parameters = sum(fact.num_elements for fact in facts.values())
    buffers = whole_buffers(model.parts, mesh)
    facts |= {name: Fact(tuple(buffer.shape), buffer.dtype) for name, buffer in buffers.items()}

    def stream() -> Iterator[tuple[str, Tensor]]:
        for trained, value in whole_weights(shards, mesh, model.runtime.device):
            if (name := merge.name(trained)) is not None:
                yield name, merge.weight(trained, value)
        yield from buffers.items()

    if model.runtime.group.rank == 0:
        save(facts, stream())
    else:
        for _ in stream():
            pass  # the others lend their parts
    return num_parameters


class _AsTrained:
    """The weights as they are."""

    def name(self, trained: str) -> str:
        return trained

    def weight(self, trained: str, value: Tensor) -> Tensor:
        return value
