"""A tensor in a kilobyte: enough to tell equal bits, and how far apart two tensors are."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NUM_BUCKETS = 256
_CHUNK = 2**22  # elements that are hashed at a time: the work space is a few dozen MiB
_MULTIPLIERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)  # of splitmix64, as signed numbers


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a tensor; ``digest`` is of its bytes in row-major order.

    ``norm``, ``largest`` and ``mean`` are of its finite elements; ``sketch`` is 256 sums of them, see ``sketch_of``.
    """

    shape: tuple[int, ...]
    dtype: str
    norm: float
    largest: float
    mean: float
    num_nonfinite: int
    digest: str
    sketch: Tensor

    def facts(self) -> dict[str, Any]:  # Any: JSON values
        """Return all but the sketch."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "norm": self.norm,
            "largest": self.largest,
            "mean": self.mean,
            "num_nonfinite": self.num_nonfinite,
            "digest": self.digest,
        }


def summarise(tensor: Tensor) -> Summary:
    """Return the summary of ``tensor``, which may be on any device and of any layout."""
    host = tensor.detach().to("cpu").contiguous()
    values = host.to(torch.float64).flatten()
    finite = torch.isfinite(values)
    num_nonfinite = values.numel() - int(finite.sum())
    if num_nonfinite:
        values = torch.where(finite, values, 0.0)
    empty = values.numel() == 0
    return Summary(
        shape=tuple(host.shape),
        dtype=str(host.dtype).removeprefix("torch."),
        norm=float(torch.linalg.vector_norm(values)),
        largest=0.0 if empty else float(values.abs().max()),
        mean=0.0 if empty else float(values.mean()),
        num_nonfinite=num_nonfinite,
        digest=hashlib.blake2b(bytes_of(host), digest_size=16).hexdigest(),
        sketch=sketch_of(values),
    )


def bytes_of(host: Tensor) -> memoryview:
    """Return the bytes of a contiguous host tensor."""
    return memoryview(host.flatten().view(torch.uint8).numpy())


def sketch_of(values: Tensor) -> Tensor:
    """Add each of the n ``values`` with a pseudo-random sign to one of 256 sums; returns these, float32.

    It is linear, and the norm of a sketch is that of its tensor within about 10 %. So the distance of two
    tensors is told from their sketches alone, whichever element differs: no sample of positions could do that.
    Source: Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams" (count sketch).
    """
    sums = torch.zeros(NUM_BUCKETS, dtype=torch.float64)
    for start in range(0, values.numel(), _CHUNK):
        chunk = values[start : start + _CHUNK]
        hashed = _hash(torch.arange(start, start + chunk.numel()))
        signs = ((hashed >> 40) & 1) * 2 - 1
        sums += torch.bincount((hashed >> 20) & (NUM_BUCKETS - 1), chunk * signs, NUM_BUCKETS)
    return sums.float()


def distance(recorded: Summary, present: Summary) -> float:
    """Return how far ``present`` is from ``recorded``, relative to the norm of the latter.

    0 means equal bits, or equal sketches in two number formats; infinite means other shapes, or other numbers
    of elements that are not finite.
    """
    if recorded.digest == present.digest and recorded.dtype == present.dtype:
        return 0.0
    if recorded.shape != present.shape or recorded.num_nonfinite != present.num_nonfinite:
        return math.inf
    apart = float(torch.linalg.vector_norm(recorded.sketch.double() - present.sketch.double()))
    if recorded.norm == 0:
        return math.inf if apart else 0.0
    return apart / recorded.norm


def map_tensors(
    value: Any,  # Any: the arguments or results of any function
    function: Callable[[str, Tensor], Tensor],
    path: str = "",
) -> Any:
    """Return ``value`` with ``function(path, tensor)`` in the place of each tensor.

    It looks into tuples, lists and dicts. A path is e.g. ``1.0``, the first of a pair given as second argument.
    """
    if isinstance(value, Tensor):
        return function(path, value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(item, function, _join(path, place)) for place, item in enumerate(value))
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function, _join(path, key)) for key, item in value.items()}
    return value


def tensors_in(value: Any) -> dict[str, Tensor]:  # Any: see map_tensors
    """Return all tensors in ``value`` by their paths."""
    found: dict[str, Tensor] = {}

    def keep(path: str, tensor: Tensor) -> Tensor:
        found[path] = tensor
        return tensor

    map_tensors(value, keep)
    return found


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _hash(numbers: Tensor) -> Tensor:
    """Mix the bits of int64 ``numbers``; the arithmetic wraps, alike on every machine."""
    for multiplier in _MULTIPLIERS:
        numbers = numbers * multiplier
        numbers = numbers ^ (numbers >> 29)
    return numbers
