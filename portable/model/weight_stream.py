"""Weights to and from safetensors files without a whole model in memory: written tensor by tensor in any
order, read box by box.

A safetensors file is the length of its header (8 bytes, little-endian), the header (JSON: dtype, shape and
place of every tensor), and the tensors' bytes. Source: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from portable.core.errors import ArtefactError
from portable.core.storage import atomic_path, explain_os_errors, read_json, write_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9
# The format's names, in the order in which its own writer lays tensors out: the widest first.
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True, slots=True)
class Fact:
    """What has to be known of a tensor before any file can be begun."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """How much room they take."""
        return self.num_elements * self.dtype.itemsize


def write_weights(
    facts: Mapping[str, Fact],
    tensors: Iterable[tuple[str, Tensor]],
    path: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write ``tensors``, which ``facts`` describes and which come one at a time in any order, into files of
    at most ``max_shard_bytes``; the bytes of the files do not depend on the order.

    Raises: ArtefactError if a tensor is missing or unlike its fact; StorageError if the disk refuses.
    """
    shards = _deal(facts, max_shard_bytes)
    count = len(shards)
    files = (
        [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    )
    missing = dict(facts)
    with explain_os_errors(path), ExitStack() as stack:
        places: dict[str, tuple[BinaryIO, int]] = {}
        for names, file in zip(shards, files, strict=True):
            temporary = stack.enter_context(atomic_path(path / file))
            opened = stack.enter_context(temporary.open("wb"))
            places |= {name: (opened, at) for name, at in _begin(opened, names, facts).items()}
        for name, tensor in tensors:
            fact = missing.pop(name, None)
            if fact != Fact(tuple(tensor.shape), tensor.dtype):
                raise ArtefactError(f"{path}: the tensor '{name}' came twice or is unlike what was announced")
            opened, at = places[name]
            opened.seek(at)
            opened.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        if missing:
            raise ArtefactError(f"{path}: {len(missing)} tensors never came, e.g. {next(iter(missing))}")
    if count > 1:
        total = sum(fact.num_bytes for fact in facts.values())
        weight_map = {name: file for names, file in zip(shards, files, strict=True) for name in names}
        write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def weight_files(path: Path) -> list[str]:
    """Return the names of the files that hold a folder's weights, the index included."""
    if (path / INDEX).is_file():
        return [INDEX, *sorted(set(read_json(path / INDEX)["weight_map"].values()))]
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    raise ArtefactError(
        f"{path} holds no {WEIGHTS} and no {INDEX}; weights are read from safetensors files only"
    )


class StoredWeights:
    """The tensors in a folder's files by the names they have there; only what is asked for is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name in weight_files(path):
            if name == INDEX:
                continue
            if not (path / name).is_file():
                raise ArtefactError(
                    f"{path} lacks '{name}', which its {INDEX} names; the download is incomplete"
                )
            with _opened(path / name) as opened:
                for held in opened.keys():  # noqa: SIM118 - not a dict
                    self._files[held] = path / name
                    self._shapes[held] = tuple(opened.get_slice(held).get_shape())

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return self._shapes

    def box(self, name: str, offset: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Return the box at ``offset``, reading no other bytes than its rows'."""
        where = tuple(slice(at, at + length) for at, length in zip(offset, shape, strict=True))
        with _opened(self._files[name]) as opened:
            return opened.get_slice(name)[where] if where else opened.get_tensor(name)


@contextlib.contextmanager
def _opened(file: Path) -> Generator[Any]:  # Any: the class is not exported, and has no types
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ArtefactError(f"{file} is damaged ({error}); write or fetch it again") from error


def _deal(facts: Mapping[str, Fact], max_shard_bytes: int) -> list[list[str]]:
    """Divide the names, in order, into files."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(facts):
        if shards[-1] and size + facts[name].num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += facts[name].num_bytes
    return shards


def _begin(file: BinaryIO, names: Sequence[str], facts: Mapping[str, Fact]) -> dict[str, int]:
    """Write the header; return where each tensor's bytes go."""
    order = list(_DTYPES)
    unknown = {str(facts[name].dtype) for name in names if facts[name].dtype not in order}
    if unknown:
        known = ", ".join(str(dtype) for dtype in order)
        raise ArtefactError(f"weights in {', '.join(sorted(unknown))} cannot be written; use one of {known}")
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ends: dict[str, int] = {}
    at = 0
    for name in sorted(names, key=lambda name: (order.index(facts[name].dtype), name)):
        fact = facts[name]
        place = [at, at + fact.num_bytes]
        header[name] = {"dtype": _DTYPES[fact.dtype], "shape": list(fact.shape), "data_offsets": place}
        ends[name], at = at, at + fact.num_bytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the tensors lie on a multiple of their width
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: start + 8 + len(text) for name, start in ends.items()}
