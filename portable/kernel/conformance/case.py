"""A case: one question that every row of an op must answer as well as the reference.

A case holds no numbers. ``draw_inputs`` makes them on the CPU, rounded to the run's dtype, the same at each
call; ``place`` lays them out in the memory of a device.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Inputs = dict[
    str, Any
]  # Any: tensors, lists of tensors, numbers, functions, each under its name, in call order
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GAP = 3  # unused values before a slice; odd, so that slices are not aligned


class Layout(Enum):
    """How an input lies in memory. Between its values lies NaN, or ones in every bit of whole numbers."""

    swapped = "swapped"  # the last two dims have changed places
    heads_first = "heads_first"  # dims 1 and 2 have changed places
    sliced = "sliced"  # a part of longer rows, at an odd offset
    stepped = "stepped"  # every second value of rows twice as long
    expanded = "expanded"  # one memory for all of dim 0


@runtime_checkable
class Convertible(Protocol):
    """An input that is no tensor but holds some."""

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Self:
        """Return a fresh object with converted tensors."""
        ...

    def complaint(self) -> str:
        """Return what was wrong with how it was used, or ""."""
        ...


class Draw:
    """Random inputs that depend on the case only, not on the device or on what was drawn before."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0, wide: bool = False) -> Tensor:
        """Return normal numbers in the run's dtype, or in float32 where ``wide``."""
        values = torch.randn(shape, generator=self._generator, dtype=torch.float64) * std + mean
        return self.rounded(values, wide=wide)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, wide: bool = False) -> Tensor:
        """Return numbers between ``low`` and ``high`` in the run's dtype, or in float32 where ``wide``."""
        values = torch.rand(shape, generator=self._generator, dtype=torch.float64) * (high - low) + low
        return self.rounded(values, wide=wide)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Return int64 numbers from ``low`` to ``high`` - 1."""
        return torch.randint(low, high, shape, generator=self._generator)

    def order(self, size: int) -> Tensor:
        """Return the numbers 0 to ``size`` - 1 in random order."""
        return torch.randperm(size, generator=self._generator)

    def rounded(self, values: Tensor, *, wide: bool = False) -> Tensor:
        """Return float64 ``values`` in the run's dtype, or in float32 where ``wide``."""
        return values.to(torch.float32 if wide else self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One question to an op.

    ``build`` makes the inputs in the order of the reference's parameters. ``facts`` are what a caller would
    know. ``leaves`` names the inputs whose gradients are compared; ``layouts`` those that do not lie row by
    row. ``scale`` is the size of numbers that the op subtracts from each other: no result can be nearer to
    the truth than the rounding of those. An ``invalid`` case makes the reference raise a PortableError, and
    every row the same. A ``repeated`` case is run twice to compare bits. The gradients of an
    ``ill_conditioned`` case are differences of numbers that are much larger: they must be finite, no more.
    """

    op: str
    name: str
    build: Callable[[Draw], Inputs]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])  # Any: see Op.facts
    leaves: tuple[str, ...] = ()
    layouts: Mapping[str, Layout] = field(default_factory=dict[str, Layout])
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    scale: float = 0.0
    invalid: bool = False
    repeated: bool = False
    ill_conditioned: bool = False

    @property
    def id(self) -> str:
        """The name in reports: ``attention/gqa``."""
        return f"{self.op}/{self.name}"

    def draw_inputs(self, dtype: str) -> Inputs:
        """Return the inputs for a run in ``dtype``: dense, on the CPU, the same at each call."""
        inputs = self.build(Draw(zlib.crc32(self.id.encode()), TORCH_DTYPES[dtype]))
        for name, layout in self.layouts.items():
            if layout is Layout.expanded:
                inputs[name] = _convert(inputs[name], lambda x: x[:1].expand_as(x).contiguous())
        return inputs

    def place(self, inputs: Inputs, device: torch.device, *, with_grad: bool = False) -> Inputs:
        """Return copies of ``inputs`` on ``device`` in the case's layouts, with leaves ``with_grad``."""
        placed: Inputs = {}
        for name, value in inputs.items():
            layout = self.layouts.get(name)
            wants_grad = with_grad and name in self.leaves
            placed[name] = _convert(value, lambda x, layout=layout: _lay(x, layout, device))
            if wants_grad:
                _convert(placed[name], lambda x: x.requires_grad_())
        return placed


def convert(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return ``inputs`` with every tensor changed."""
    return {name: _convert(value, change) for name, value in inputs.items()}


def to_double(inputs: Inputs) -> Inputs:
    """Return ``inputs`` with every floating number, and every dtype that is asked for, in float64."""

    def widen(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    return {
        name: torch.float64 if isinstance(value, torch.dtype) else _convert(value, widen)
        for name, value in inputs.items()
    }


def tensors_in(value: Any) -> Iterable[Tensor]:  # Any: what a kernel takes or returns
    """Yield the tensors of a result or an input."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def _convert(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:  # Any: see Inputs
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, Convertible):
        return value.converted(convert)
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return [convert(item) for item in value]
    return value


def _lay(x: Tensor, layout: Layout | None, device: torch.device) -> Tensor:
    """Return a copy of ``x`` on ``device`` in ``layout``. Tensors of too few dims lie row by row."""
    x = x.to(device, copy=True)
    hole = float("nan") if x.is_floating_point() else -1 if x.dtype.is_signed else 255
    match layout:
        case Layout.swapped if x.dim() > 1:
            return x.transpose(-1, -2).contiguous().transpose(-1, -2)
        case Layout.heads_first if x.dim() > 2:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case Layout.sliced if x.dim():
            room = x.new_full((*x.shape[:-1], x.shape[-1] + 2 * _GAP), hole)
            part = room[..., _GAP : _GAP + x.shape[-1]]
            return part.copy_(x)
        case Layout.stepped if x.dim():
            room = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), hole)
            return room[..., ::2].copy_(x)
        case Layout.expanded if x.dim():
            return x[:1].clone().expand_as(x)
        case _:
            return x
