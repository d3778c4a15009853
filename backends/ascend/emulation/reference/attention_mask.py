"""Which scores ``npu_fusion_attention`` leaves out: a mask, and a ``sparse_mode`` that says how to read it.

Shapes: B batch, N heads, S query length, K key length. A mask is True where attention is forbidden.
Source: the documentation of npu_fusion_attention in torch_npu 2.13.0 (table of sparse_mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected

UNLIMITED = 2147483647
_COMPRESSED = 2048  # the compressed masks are upper triangles of this size, for any sequence length
_PREFIX_ROWS = 1024


class SparseMode(IntEnum):
    """How the kernel reads ``atten_mask``."""

    default = 0
    all = 1
    left_up_causal = 2
    right_down_causal = 3
    band = 4
    prefix = 5
    prefix_compressed = 6


@dataclass(frozen=True, slots=True)
class MaskRule:
    """The mask arguments of one call."""

    op: str
    mode: SparseMode
    given: Tensor | None
    before: int  # how many keys before the diagonal stay, in modes default and band
    after: int
    prefix: list[int] | None

    def for_sequence(self, batch: int, num_queries: int, num_keys: int) -> Tensor | None:
        """Return what is forbidden in batch entry ``batch``: (1|N, S, K) or (S, K), or None."""
        if self.given is None:
            return None  # the kernel then ignores sparse_mode and computes everything
        offset = num_keys - num_queries
        match self.mode:
            case SparseMode.default | SparseMode.all | SparseMode.prefix:
                return self._as_given(batch, num_queries, num_keys)
            case SparseMode.left_up_causal:
                return self._band(num_queries, num_keys, UNLIMITED, 0)
            case SparseMode.right_down_causal:
                return self._band(num_queries, num_keys, UNLIMITED, offset)
            case SparseMode.band:
                return self._band(num_queries, num_keys, self.before - offset, self.after + offset)
            case SparseMode.prefix_compressed:
                causal = self._band(num_queries, num_keys, UNLIMITED, offset)
                keys = torch.arange(num_keys, device=causal.device)
                return causal & (keys >= self._prefix(batch))

    def check(self) -> None:
        """Raise where the kernel would read the mask in another way than the caller means."""
        if self.given is None:
            return
        if self.given.dtype not in (torch.bool, torch.uint8):
            raise Rejected(
                f"{self.op}: atten_mask is {self.given.dtype}; it must be bool or uint8, True where forbidden"
            )
        if self.mode in (SparseMode.default, SparseMode.all, SparseMode.prefix):
            return
        rows = _COMPRESSED + (_PREFIX_ROWS if self.mode is SparseMode.prefix_compressed else 0)
        if tuple(self.given.shape) != (rows, _COMPRESSED):
            raise Rejected(
                f"{self.op}: sparse_mode={int(self.mode)} reads a compressed atten_mask of shape ({rows}, "
                f"{_COMPRESSED}), whatever the sequence length; got {tuple(self.given.shape)}"
            )
        triangle = torch.ones(_COMPRESSED, _COMPRESSED, dtype=torch.bool, device=self.given.device).triu(1)
        if not torch.equal(self.given[:_COMPRESSED].bool(), triangle):
            raise Rejected(
                f"{self.op}: sparse_mode={int(self.mode)} needs an atten_mask that is True above the "
                f"diagonal and False elsewhere; the kernel computes nonsense with any other"
            )

    def _as_given(self, batch: int, num_queries: int, num_keys: int) -> Tensor:
        check_shape(self.op, self.given, num_queries, num_keys)
        mask = self.given.bool()
        if mask.dim() == 4:
            mask = mask[batch if mask.shape[0] > 1 else 0]
        mask = mask[..., :num_queries, :num_keys]  # a varlen call has one mask for its longest sequence
        limited = self.mode is SparseMode.default and (self.before < UNLIMITED or self.after < UNLIMITED)
        if limited and not bool(
            (mask | ~self._band(num_queries, num_keys, self.before, self.after)).all().item()
        ):
            raise Rejected(
                f"{self.op}: atten_mask keeps scores outside of pre_tockens={self.before} and next_tockens="
                f"{self.after}; the kernel skips those blocks, so mask and tokens must describe the same band"
            )
        return mask

    def _band(self, num_queries: int, num_keys: int, before: int, after: int) -> Tensor:
        """True outside of ``query - before <= key <= query + after``."""
        device = self.given.device if self.given is not None else None
        distance = torch.arange(num_keys, device=device) - torch.arange(num_queries, device=device)[:, None]
        return (distance > after) | (distance < -before)

    def _prefix(self, batch: int) -> int:
        if self.prefix is None:
            raise Rejected(
                f"{self.op}: sparse_mode={int(self.mode)} needs prefix, one length for each batch entry"
            )
        return self.prefix[batch]


def check_shape(op: str, mask: Tensor | None, num_queries: int, num_keys: int) -> None:
    """Raise Rejected unless ``mask`` covers (S, K) in one of the forms SS, B1SS, 11SS, BNSS."""
    if mask is None or mask.dim() not in (2, 4) or mask.shape[-2] < num_queries or mask.shape[-1] < num_keys:
        shape = None if mask is None else tuple(mask.shape)
        raise Rejected(
            f"{op}: atten_mask of shape {shape} does not cover {num_queries} queries and {num_keys} keys"
        )


def parse_mode(op: str, sparse_mode: int) -> SparseMode:
    """Turn the number into a SparseMode, or raise."""
    if sparse_mode in (7, 8):
        raise NotEmulated(
            f"{op}: the emulator does not cover sparse_mode={sparse_mode} (packed sequences cut over ranks)"
        )
    if sparse_mode not in set(SparseMode):
        raise Rejected(f"{op}: there is no sparse_mode={sparse_mode}")
    return SparseMode(sparse_mode)
