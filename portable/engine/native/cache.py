"""Keys and values of the running sequences, one slot each.

Shapes: L layers, R rows (slots), S cached positions, K key-value heads, H head_dim, N query heads,
B running sequences, T tokens of a packed prefill.

Slots 0 .. n-1 are always the n running ones: when one ends, the last moves into its place. Decoding then
reads a plain view of the buffer and gathers nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from portable.kernel.entry import Kernel


class SlotCache:
    """Two buffers of shape (L, R, S, K, H) that grow on demand; the first write fixes their number format."""

    def __init__(self, num_layers: int, device: torch.device) -> None:
        self.num_layers = num_layers
        self.device = device
        self.num_rows = 0
        self.num_positions = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def reserve(self, num_rows: int, num_positions: int) -> None:
        """Make room for ``num_rows`` sequences of ``num_positions`` tokens; what is stored stays."""
        self.num_rows = max(num_rows, self.num_rows)
        self.num_positions = max(num_positions, self.num_positions)

    def store(self, layer: int, rows: Tensor, positions: Tensor, k_NKH: Tensor, v_NKH: Tensor) -> None:
        """Write entry i to slot ``rows[i]`` at ``positions[i]``."""
        keys, values = self._buffers(k_NKH)
        keys[layer][rows, positions] = k_NKH.to(keys.dtype)
        values[layer][rows, positions] = v_NKH.to(values.dtype)

    def read(self, layer: int, num_rows: int, num_positions: int) -> tuple[Tensor, Tensor]:
        """Return views (B, S, K, H) of the keys and values of the first slots."""
        if self.keys is None or self.values is None:
            raise RuntimeError("the cache is read before anything was stored in it")
        return self.keys[layer, :num_rows, :num_positions], self.values[layer, :num_rows, :num_positions]

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole slots: ``sources[i]`` to ``targets[i]``."""
        if not sources or self.keys is None or self.values is None:
            return
        source, target = torch.tensor([sources, targets], device=self.device)
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]

    def _buffers(self, like_NKH: Tensor) -> tuple[Tensor, Tensor]:
        shape = (self.num_layers, self.num_rows, self.num_positions, *like_NKH.shape[-2:])
        if self.keys is None or self.values is None:
            # Zeros, not empty memory: masked positions still meet a weight of zero, and 0 * nan is nan.
            self.keys = torch.zeros(shape, dtype=like_NKH.dtype, device=self.device)
            self.values = torch.zeros_like(self.keys)
        elif self.keys.shape != shape:
            self.keys, self.values = _grown(self.keys, shape), _grown(self.values, shape)
        return self.keys, self.values


def _grown(old: Tensor, shape: Sequence[int]) -> Tensor:
    new = torch.zeros(*shape, dtype=old.dtype, device=old.device)
    new[:, : old.shape[1], : old.shape[2]] = old
    return new


@dataclass(frozen=True, slots=True)
class PrefillView:
    """A ``KvCache`` for one pass over packed prompts: a row of T tokens, segments bounded by ``cu_seqlens``.

    Cache entry i comes from token ``source[i]``: a prompt that several sequences share is computed once.
    """

    cache: SlotCache
    attention: Kernel
    cu_seqlens: Tensor
    source: Tensor
    rows: Tensor
    positions: Tensor

    def attend(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Attend inside each prompt, and keep its keys and values."""
        self.cache.store(layer, self.rows, self.positions, k_BTKH[0][self.source], v_BTKH[0][self.source])
        return self.attention(q_BTNH, k_BTKH, v_BTKH, cu_seqlens=self.cu_seqlens)


@dataclass(frozen=True, slots=True)
class DecodeView:
    """A ``KvCache`` for one new token in each of the B running sequences, at ``positions_B``."""

    cache: SlotCache
    decode_attention: Kernel
    rows_B: Tensor
    positions_B: Tensor
    num_positions: int  # longest sequence, the new token included; known on the host, so nothing has to wait

    def attend(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Keep the new keys and values and attend to all of the sequence so far."""
        self.cache.store(layer, self.rows_B, self.positions_B, k_BTKH[:, 0], v_BTKH[:, 0])
        keys, values = self.cache.read(layer, len(self.rows_B), self.num_positions)
        out_BNH = self.decode_attention(q_BTNH[:, 0].to(keys.dtype), keys, values, self.positions_B + 1)
        return out_BNH[:, None]
