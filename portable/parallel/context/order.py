"""Which tokens of a row each rank holds.

Shapes: B rows, T tokens of a whole row, t = T / R those that one of the R ranks holds, C chunks of a row, S
segments, ... any further dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from portable.core.errors import ShapeError

Chunks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """Deals a row, in chunks of equal length, to ``size`` ranks.

    ``balanced`` (head-tail): of 2 · size chunks rank r holds r and 2 · size - 1 - r, so that under a causal
    mask every rank has the same to do. Else rank r holds chunk r of ``size``. Whatever a rank holds lies in
    the row's own order.

    Source: Llama Team 2024, arXiv:2407.21783, section 3.3.2.
    """

    size: int
    balanced: bool

    @property
    def num_chunks(self) -> int:
        """C: the length of a row must be a multiple of it."""
        return 2 * self.size if self.balanced else self.size

    def chunks(self, rank: int) -> Chunks:
        """Return which chunks a rank holds."""
        return (rank, self.num_chunks - 1 - rank) if self.balanced else (rank,)

    def part(self, whole: Tensor, rank: int) -> Tensor:
        """Return what a rank holds of (B, T, ...): (B, t, ...). Raises: ShapeError if T cannot be dealt."""
        if whole.shape[1] % self.num_chunks:
            raise ShapeError(
                f"rows of {whole.shape[1]} tokens cannot be dealt to {self.size} ranks in {self.num_chunks} "
                "equal chunks; fill them up to a multiple of that"
            )
        pieces = whole.chunk(self.num_chunks, dim=1)
        return torch.cat([pieces[chunk] for chunk in self.chunks(rank)], dim=1)

    def parts(self, whole: Tensor) -> Tensor:
        """Return what every rank holds of (B, T, ...): (R, B, t, ...)."""
        return torch.stack([self.part(whole, rank) for rank in range(self.size)])

    def whole(self, parts: Tensor) -> Tensor:
        """Undo ``parts``: return (B, T, ...) for (R, B, t, ...)."""
        pieces: dict[int, Tensor] = {}
        for rank in range(self.size):
            chunks = self.chunks(rank)
            pieces |= zip(chunks, parts[rank].chunk(len(chunks), dim=1), strict=True)
        return torch.cat([pieces[chunk] for chunk in range(self.num_chunks)], dim=1)

    def seen(self, rank: int, other: int) -> tuple[Chunks, Chunks]:
        """Return which chunks of ``rank`` see keys of another rank, and which of its chunks they see, wholly.

        The former are the last that ``rank`` holds, the latter the first that ``other`` holds, or none.
        """
        queries, keys = self.chunks(rank), self.chunks(other)
        return (
            tuple(chunk for chunk in queries if chunk > keys[0]),
            tuple(chunk for chunk in keys if chunk < queries[-1]),
        )

    def count_before(self, cu_seqlens: Tensor, length: int) -> Tensor:
        """Return how many tokens of each chunk, of all rows, stand before each bound of the segments.

        Added up over the chunks that a rank holds, they bound the segments over its own tokens. Computed
        where the bounds are: the host does not wait.

        Shapes: cu_seqlens (S + 1,) over B · ``length`` tokens; returns (C, S + 1).
        """
        step = length // self.num_chunks
        starts_C1 = torch.arange(0, length, step, device=cu_seqlens.device).unsqueeze(1)
        inside = (cu_seqlens % length - starts_C1).clamp(0, step)
        return (cu_seqlens // length * step + inside).to(cu_seqlens.dtype)
