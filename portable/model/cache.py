"""What the decoder asks of a key-value cache; the engine's caches implement it.

Shapes: B rows, T new tokens a row, N query heads, K key-value heads, H head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class KvCache(Protocol):
    """Holds the keys and values of earlier tokens, and attends over them.

    The decoder calls ``attend`` once per layer and forward pass, in layer order, with rotary embedding
    already applied. Which slots the rows belong to, how long each is, and whether the new tokens are a packed
    prompt or one step of decoding is the cache's own affair: whoever calls the decoder tells the cache
    before.
    """

    def attend(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Store the new keys and values of ``layer`` and return the attention of the new queries, (B, T, N,
        H)."""
        ...
