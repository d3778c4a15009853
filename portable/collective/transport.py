"""Collectives as a torch process group does them itself, and those that stand in for what it lacks.

Everything goes to the process group's own methods, not to the functions of ``torch.distributed``: those look
whether somebody has opened torch's coalescing context for the group, and if one was left open by an error
they queue the call and do nothing, silently. The methods know no such context.

Tensors here are contiguous and two-dim: one row for each piece that may go its own way. Results are new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

HOST_TRANSPORT = "gloo"  # of the CPU: always there

TorchOp = Any  # torch's ReduceOp is untyped
Counts = Sequence[int]


class Transport:
    """What a process group does itself; it need not be able to do all of it."""

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.rank = group.rank()
        self.size = group.size()

    def all_reduce(self, tensor: Tensor, op: TorchOp) -> Tensor:
        """Reduce ``tensor``, which the caller gives away."""
        options = dist.AllreduceOptions()
        options.reduceOp, options.asyncOp = op, False
        _wait(self.group.allreduce([tensor], options))
        return tensor

    def reduce_scatter(self, tensor: Tensor, op: TorchOp) -> Tensor:
        """Reduce and return the rank-th of ``size`` blocks of rows."""
        result = tensor.new_empty((tensor.shape[0] // self.size, *tensor.shape[1:]))
        options = dist.ReduceScatterOptions()
        options.reduceOp, options.asyncOp = op, False
        _wait(self.group.reduce_scatter_single(result, tensor, options))
        return result

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of rank 0, then those of rank 1, and so on."""
        result = tensor.new_empty((self.size * tensor.shape[0], *tensor.shape[1:]))
        _wait(self.group.all_gather_single(result, tensor))
        return result

    def all_to_all(self, tensor: Tensor, sent: Counts, received: Counts) -> Tensor:
        """Send ``sent[r]`` rows to rank r and return the rows received."""
        result = tensor.new_empty((sum(received), *tensor.shape[1:]))
        _wait(self.group.all_to_all_single(result, tensor, list(received), list(sent)))
        return result

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Fill ``tensor``, which the caller gives away, with ``source``'s."""
        options = dist.BroadcastOptions()
        options.rootRank, options.asyncOp = source, False
        _wait(self.group.broadcast([tensor], options))
        return tensor

    def gather(self, tensor: Tensor, target: int) -> Tensor | None:
        """Return what ``all_gather`` does on ``target``, None elsewhere."""
        options = dist.GatherOptions()
        options.rootRank, options.asyncOp = target, False
        if self.rank != target:
            _wait(self.group.gather([], [tensor], options))
            return None
        result = tensor.new_empty((self.size * tensor.shape[0], *tensor.shape[1:]))
        _wait(self.group.gather([list(result.chunk(self.size))], [tensor], options))
        return result

    def scatter(self, tensor: Tensor, source: int) -> Tensor:
        """Return the rank-th of ``size`` blocks of ``source``'s rows."""
        result = tensor.new_empty((tensor.shape[0] // self.size, *tensor.shape[1:]))
        options = dist.ScatterOptions()
        options.rootRank, options.asyncOp = source, False
        blocks = [list(tensor.chunk(self.size))] if self.rank == source else []
        _wait(self.group.scatter([result], blocks, options))
        return result

    def send(self, tensor: Tensor, target: int) -> None:
        """Send to one rank."""
        _wait(self.group.send([tensor], target, 0))

    def recv(self, tensor: Tensor, source: int) -> Tensor:
        """Fill ``tensor``, which the caller gives away, with what ``source`` sends."""
        _wait(self.group.recv([tensor], source, 0))
        return tensor

    def exchange(self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]) -> None:
        """Send and fill tensors at once."""
        for work in self.begin_exchange(sends, receives):
            work.wait()

    def begin_exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> list[dist.Work]:
        """Begin the same. Torch groups these itself, where the transport can group."""
        calls = [dist.P2POp(dist.irecv, into, group=self.group, group_peer=peer) for into, peer in receives]
        calls += [dist.P2POp(dist.isend, out, group=self.group, group_peer=peer) for out, peer in sends]
        return dist.batch_isend_irecv(calls) if calls else []


class StandIn:
    """The same collectives, each made of one that the transport does itself."""

    def __init__(self, native: Transport) -> None:
        self.native = native
        self.rank = native.rank
        self.size = native.size

    def all_reduce(self, tensor: Tensor, op: TorchOp) -> Tensor:
        """Gather all ranks' values and reduce them here, in rank order."""
        # As bytes: a format that is reduced here may be one that the transport cannot name.
        everything = self.native.all_gather(tensor.flatten().view(torch.uint8))
        return LOCALLY[op](everything.view(tensor.dtype).view(self.size, *tensor.shape))

    def reduce_scatter(self, tensor: Tensor, op: TorchOp) -> Tensor:
        """Reduce all and keep the own block."""
        return self._own_block(self.native.all_reduce(tensor, op))

    def reduce_scatter_by_gather(self, tensor: Tensor, op: TorchOp) -> Tensor:
        """Do the same where the transport does not know ``op``."""
        return self._own_block(self.all_reduce(tensor, op))

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Let one rank after the other broadcast."""
        parts = [self.native.broadcast(tensor.clone(), source) for source in range(self.size)]
        return torch.cat(parts)

    def all_to_all(self, tensor: Tensor, sent: Counts, received: Counts) -> Tensor:
        """Let every pair of ranks exchange; the own rows are copied."""
        outgoing = tensor.split(list(sent))
        result = tensor.new_empty((sum(received), *tensor.shape[1:]))
        incoming = result.split(list(received))
        incoming[self.rank].copy_(outgoing[self.rank])
        others = [peer for peer in range(self.size) if peer != self.rank]
        self.native.exchange(
            [(outgoing[peer], peer) for peer in others if sent[peer]],
            [(incoming[peer], peer) for peer in others if received[peer]],
        )
        return result

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Add the bytes of ``source`` to the others' zeros."""
        data = tensor if self.rank == source else torch.zeros_like(tensor)
        summed = self.native.all_reduce(data.view(torch.uint8), dist.ReduceOp.SUM)
        return summed.view(tensor.dtype)

    def gather(self, tensor: Tensor, target: int) -> Tensor | None:
        """Gather on all ranks; the others drop it."""
        everything = self.native.all_gather(tensor)
        return everything if self.rank == target else None

    def scatter(self, tensor: Tensor, source: int) -> Tensor:
        """Broadcast everything and keep the own block."""
        return self._own_block(self.native.broadcast(tensor.clone(), source))

    def _own_block(self, tensor: Tensor) -> Tensor:
        rows = tensor.shape[0] // self.size
        return tensor[self.rank * rows : (self.rank + 1) * rows].clone()


def _locally_sum(stacked: Tensor) -> Tensor:
    return stacked.sum(0, dtype=stacked.dtype)


def _locally_product(stacked: Tensor) -> Tensor:
    return stacked.prod(0, dtype=stacked.dtype)


# How (size, ...) values of all ranks are reduced on one.
LOCALLY: dict[TorchOp, Callable[[Tensor], Tensor]] = {
    dist.ReduceOp.SUM: _locally_sum,
    dist.ReduceOp.PRODUCT: _locally_product,
    dist.ReduceOp.MAX: lambda stacked: stacked.amax(0),
    dist.ReduceOp.MIN: lambda stacked: stacked.amin(0),
}


def _wait(work: Any) -> None:  # Any: torch's Work, or None where the transport has already waited
    if work is not None:
        work.wait()
