"""A group that counts what it sends, and which of the tensors it received are still alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from portable.collective.protocol import Exchange, Group


class CountingGroup:
    """Hands everything to ``group``. Bytes are those that leave for another rank."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._received: list[StorageWeakRef] = []
        self.sent_bytes = 0
        self.most_alive = 0  # received tensors, those on their way included

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def all_to_all(self, tensor: Tensor) -> Tensor:
        self.sent_bytes += tensor.nbytes * (self._group.size - 1) // self._group.size
        return self._group.all_to_all(tensor)

    def begin_exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Exchange:
        self.sent_bytes += sum(tensor.nbytes for tensor, _ in sends)
        exchange = self._group.begin_exchange(sends, receives)
        landed = exchange.wait()  # the same tensors as at the end
        self._received = [item for item in self._received if not item.expired()]
        self._received += [StorageWeakRef(tensor.untyped_storage()) for tensor in landed]
        self.most_alive = max(self.most_alive, len(self._received))
        return exchange

    def start(self) -> None:
        self.sent_bytes = self.most_alive = 0
