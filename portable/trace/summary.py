"""A tensor in a kilobyte: enough to tell equal bits, and how far apart two tensors are."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

NUM_BUCKETS = (
    257  # a prime: no dim of a model keeps step with it, so an error in one column meets all buckets
)
_CHUNK = NUM_BUCKETS * 2**14  # elements that are added at a time; signs are kept for this many
_MULTIPLIERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47)  # of splitmix64, as signed numbers
_NUM_REMEMBERED = 8


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a tensor; ``digest`` is of its bytes in row-major order.

    ``norm``, ``largest`` and ``mean`` are of its finite elements, and so is ``sketch``, see ``sketch_of``.
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


class Summariser:
    """Summarises tensors, and remembers the last few: what one layer returns the next one takes.

    They are kept alive meanwhile, so that no other tensor takes their place in memory.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[object, Tensor, Summary]] = deque(maxlen=_NUM_REMEMBERED)

    def __call__(self, tensor: Tensor) -> Summary:
        """Return the summary of ``tensor``."""
        version = tensor._version  # pyright: ignore[reportPrivateUsage]  # torch has no public name for it
        place = tensor.data_ptr(), version, tensor.dtype, tensor.shape, tensor.stride()
        for known, _, summary in self._last:
            if known == place:
                return summary
        summary = summarise(tensor)
        self._last.append((place, tensor.detach(), summary))
        return summary


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
        digest=_digest(host),
        sketch=sketch_of(values),
    )


def sketch_of(values: Tensor) -> Tensor:
    """Add every 257th of the n ``values`` up, each with a pseudo-random sign; returns the 257 sums, float32.

    It is linear, and the norm of a sketch is that of its tensor within about 10 %. So the distance of two
    tensors is told from their sketches, whichever elements differ: no sample of positions could do that.
    Source: Charikar, Chen and Farach-Colton 2002, "Finding frequent items in data streams" (count sketch).
    """
    sums = torch.zeros(NUM_BUCKETS, dtype=torch.float64)
    for number, start in enumerate(range(0, values.numel(), _CHUNK)):
        chunk = values[start : start + _CHUNK]
        signed = chunk * _signs(0)[: chunk.numel()]
        padding = -chunk.numel() % NUM_BUCKETS
        part = torch.nn.functional.pad(signed, (0, padding)).view(-1, NUM_BUCKETS).sum(dim=0)
        # Further chunks have the same signs but for those of their buckets.
        sums += part if number == 0 else part * _signs(number)[:NUM_BUCKETS]
    return sums.float()


def distance(recorded: Summary, present: Summary) -> float:
    """Return how far ``present`` is from ``recorded``, relative to the norm of the latter.

    0 means equal bits, or equal sketches in two number formats; infinite means other shapes, or other numbers
    of elements that are not finite.
    """
    if recorded.shape != present.shape or recorded.num_nonfinite != present.num_nonfinite:
        return math.inf
    if recorded.digest == present.digest and recorded.dtype == present.dtype:
        return 0.0
    apart = float(torch.linalg.vector_norm(recorded.sketch.double() - present.sketch.double()))
    if recorded.norm == 0:
        return math.inf if apart else 0.0
    return apart / recorded.norm


@cache
def _first_signs() -> Tensor:
    return _hashed_signs(0, _CHUNK)


def _signs(number: int) -> Tensor:
    """Return 1 or -1, int8, for each element of the first chunk, or for each bucket of a further one."""
    return _first_signs() if number == 0 else _hashed_signs(_CHUNK + number * NUM_BUCKETS, NUM_BUCKETS)


def _hashed_signs(start: int, count: int) -> Tensor:
    """Mix the bits of the int64 numbers from ``start`` on, and take one; it wraps alike on every machine."""
    numbers = torch.arange(start, start + count)
    for multiplier in _MULTIPLIERS:
        numbers = numbers * multiplier
        numbers = numbers ^ (numbers >> 29)
    return (((numbers >> 40) & 1) * 2 - 1).to(torch.int8)


def _digest(host: Tensor) -> str:
    data: Any = (
        host.flatten().view(torch.uint8).numpy()
    )  # Any: numpy's stubs know no buffers before Python 3.12
    return hashlib.blake2b(data, digest_size=16).hexdigest()
