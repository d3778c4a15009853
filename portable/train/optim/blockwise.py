"""Numbers in 8 bits: a block shares a scale, and each number is about the nearest of 256 fixed parts of it.

The values are those of dynamic tree quantisation (Dettmers 2016, arXiv:1511.04561; Dettmers et al. 2022,
arXiv:2110.02861, section 1.3): the leading zero bits are a power of ten, the bits behind the first one a
fraction between 0.1 and 1. Two things are ours. The fractions end at 1 exactly, on both sides of zero, so a
block's largest number is kept to the bit and numbers that were quantised once stay what they are. And an
unsigned number above zero never becomes zero: a second moment of zero under a first moment that is none would
let the update explode (the "zero-point problem", Li et al. 2023, arXiv:2309.01507, section 4.1).

Shapes: N numbers, B blocks of ``size``, the last one of what is left.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST = 1e-30  # a block below is zero: 1e-7 of its scale would be lost among float32's smallest numbers


class Codebook:
    """The 256 values of a signed or an unsigned number, as fractions of its block's scale."""

    def __init__(self, *, signed: bool) -> None:
        self.signed = signed
        bits = 7 if signed else 8  # without the sign
        positive = torch.cat([
            10.0**-zeros * torch.linspace(0.1, 1.0, 2 ** (bits - 1 - zeros) + 1, dtype=torch.float64)[1:]
            for zeros in range(bits)
        ]).sort().values  # fmt: skip
        zero = positive.new_zeros(1)
        values = torch.cat([-positive.flip(0), zero, positive] if signed else [zero, positive])
        self._values = values.float()
        middles = (values[1:] + values[:-1]) / 2
        if not signed:
            middles[0] = 0.0  # whatever is above zero is nearest to the first value above it
        # To look up a number's first 16 bits is ten times faster than a search, and near enough: rounding to
        # them moves no value halfway to its neighbour.
        every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16).float()
        self._codes = torch.bucketize(every, middles.float()).to(torch.uint8)
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def values(self) -> Tensor:
        """The values, (255,) or (256,), ascending."""
        return self._values

    def encode(self, values_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return codes (N,) uint8 and scales (B,) float32; a block's scale is its largest magnitude."""
        _, codes = self._tables(values_N.device)
        blocks = F.pad(values_N, (0, -len(values_N) % size)).view(-1, size)
        scales_B = blocks.abs().amax(dim=1)
        scales_B = torch.where(scales_B < _LEAST, 0.0, scales_B)
        fractions = torch.where(scales_B[:, None] > 0, blocks / scales_B[:, None], 0.0)
        bits = fractions.to(torch.bfloat16).view(torch.int16).view(-1)[: len(values_N)].int()
        return codes.index_select(0, bits + 2**15), scales_B

    def decode(self, codes_N: Tensor, scales_B: Tensor, size: int) -> Tensor:
        """Return the numbers, (N,) float32."""
        values, _ = self._tables(codes_N.device)
        fractions_N = values.index_select(0, codes_N.int())
        blocks = F.pad(fractions_N, (0, -len(fractions_N) % size)).view(-1, size)
        return (blocks * scales_B[:, None]).view(-1)[: len(fractions_N)]

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._on:
            self._on[device] = (self._values.to(device), self._codes.to(device))
        return self._on[device]
