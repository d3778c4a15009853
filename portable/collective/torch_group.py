"""A group over ``torch.distributed``, for whichever communicator it is told to use.

Tensors travel over the device's communicator; host numbers and objects over a second, small group on the
CPU's transport, so that a number never waits for the device. What a communicator lacks is composed of what
every one has: a mean is a sum divided by the size. Torch's coalescing manager is never entered: on transports
without it, later collectives silently do nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import gc
import logging
import time
from collections.abc import Generator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from portable.collective.protocol import ReduceOp
from portable.core.errors import CapabilityError, CollectiveError, ShapeError

logger = logging.getLogger(__name__)
HOST_TRANSPORT = "gloo"
_DRAIN_S = 0.2  # for the transport's threads, before the interpreter may end
_GRACE_S = 1.0  # after a failure: how long the other ranks have to say that they arrived too
_TORCH_OPS = {
    ReduceOp.sum: dist.ReduceOp.SUM,
    ReduceOp.mean: dist.ReduceOp.AVG,
    ReduceOp.max: dist.ReduceOp.MAX,
    ReduceOp.min: dist.ReduceOp.MIN,
}


def new_host_group(timeout_s: float, ranks: list[int] | None = None) -> ProcessGroup:
    """Return a new group over the CPU's transport; all ranks of the world must ask for it."""
    group = dist.new_group(ranks, backend=HOST_TRANSPORT, timeout=datetime.timedelta(seconds=timeout_s))
    if not isinstance(group, ProcessGroup):
        raise CollectiveError(
            f"this process is not among the ranks {ranks} of the new group; name it among them"
        )
    return group


class TorchGroup:
    """All ranks of a ``torch.distributed`` world.

    ``communicator`` is our name for the transport and ``transport`` is torch's, where the two differ.
    ``native_ops`` names the reductions that it computes itself.
    """

    def __init__(
        self,
        communicator: str,
        *,
        store: Any,  # Any: torch has no public name for the stores of its rendezvous
        rank: int,
        size: int,
        local_rank: int,
        timeout_s: float,
        transport: str | None = None,
        native_ops: Sequence[str] = ("sum", "max", "min"),
    ) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self.communicator = communicator
        self.timeout_s = timeout_s
        self.native_ops = frozenset(ReduceOp(name) for name in native_ops)
        self._store = store
        self._num_calls = 0
        with self._naming_ranks("the rendezvous"):
            dist.init_process_group(
                transport or communicator,
                store=store,
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=timeout_s),
            )
            self.process_group = dist.group.WORLD
            on_host = (transport or communicator) == HOST_TRANSPORT
            self._control = self.process_group if on_host else new_host_group(timeout_s)
        atexit.register(self.close)

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Return the reduction over all ranks; same shape and dtype."""
        result = tensor.clone(memory_format=torch.contiguous_format)
        torch_op, divisor = self._composed(tensor, op)
        with self._naming_ranks("all_reduce"):
            dist.all_reduce(result, op=torch_op, group=self.process_group)
        return result.div_(divisor) if divisor != 1 else result

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors stacked along a new first dim: (size, *shape)."""
        result = tensor.new_empty(self.size * tensor.numel())
        with self._naming_ranks("all_gather"):
            dist.all_gather_single(result, tensor.flatten(), group=self.process_group)
        return result.view(self.size, *tensor.shape)

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum) -> Tensor:
        """Reduce (size * n, ...) over ranks and return this rank's (n, ...).

        Raises: ShapeError if size does not divide the first dim.
        """
        self._check_divides(tensor, "reduce_scatter")
        result = tensor.new_empty((tensor.shape[0] // self.size, *tensor.shape[1:]))
        torch_op, divisor = self._composed(tensor, op)
        with self._naming_ranks("reduce_scatter"):
            dist.reduce_scatter_single(result, tensor.contiguous(), op=torch_op, group=self.process_group)
        return result.div_(divisor) if divisor != 1 else result

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Send the r-th of ``size`` equal slices to rank r.

        Raises: ShapeError if size does not divide the first dim.
        """
        self._check_divides(tensor, "all_to_all")
        source = tensor.contiguous()
        result = torch.empty_like(source)
        with self._naming_ranks("all_to_all"):
            dist.all_to_all_single(result, source, group=self.process_group)
        return result

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return ``source``'s tensor on every rank. Raises: ShapeError for a rank that does not exist."""
        self._check_source(source)
        result = tensor.clone(memory_format=torch.contiguous_format)
        with self._naming_ranks("broadcast"):
            dist.broadcast(result, group=self.process_group, group_src=source)
        return result

    def sum_scalar(self, value: float) -> float:
        """Add a host number over ranks, in float64; the device does not wait."""
        total = torch.tensor([value], dtype=torch.float64)
        with self._naming_ranks("sum_scalar"):
            dist.all_reduce(total, group=self._control)
        return float(total.item())

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any picklable object
        """Return ``source``'s object on every rank. Raises: ShapeError for a rank that does not exist."""
        self._check_source(source)
        box = [value if self.rank == source else None]
        with self._naming_ranks("broadcast_object"):
            dist.broadcast_object_list(box, group=self._control, group_src=source, device=torch.device("cpu"))
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum_scalar(0.0)

    def close(self) -> None:
        """Leave the group; the world it stood on is gone afterwards. A process that ends does so by itself.

        A thread of the transport may still be waiting for Python's lock, to let go of the last tensor. If
        the interpreter ends meanwhile, the process aborts after all its work; so the thread gets its turn.
        """
        atexit.unregister(self.close)
        if not dist.is_initialized():
            return
        dist.destroy_process_group()
        self.process_group = None
        self._control = None
        gc.collect()  # who lets go of the last reference to a torch group waits for its threads
        time.sleep(_DRAIN_S)

    def _composed(self, tensor: Tensor, op: ReduceOp) -> tuple[Any, int]:  # Any: torch's ReduceOp is untyped
        """Return the reduction to ask torch for, and what to divide its result by."""
        if op is ReduceOp.mean and not tensor.is_floating_point():
            raise CapabilityError(
                f"the mean of {tensor.dtype} is not of that dtype; convert to a float or use sum"
            )
        if op in self.native_ops:
            return _TORCH_OPS[op], 1
        if op is ReduceOp.mean:
            return dist.ReduceOp.SUM, self.size
        raise CapabilityError(
            f"the communicator '{self.communicator}' cannot reduce with {op.name}; use sum or mean"
        )

    def _check_divides(self, tensor: Tensor, collective: str) -> None:
        if tensor.ndim == 0 or tensor.shape[0] % self.size:
            raise ShapeError(
                f"{collective} over {self.size} ranks got the shape {tuple(tensor.shape)}; "
                f"its first dim must be a multiple of {self.size}"
            )

    def _check_source(self, source: int) -> None:
        if not 0 <= source < self.size:
            raise ShapeError(f"source={source}, but the group has ranks 0 to {self.size - 1}")

    @contextlib.contextmanager
    def _naming_ranks(self, collective: str) -> Generator[None]:
        """Turn torch's error (a time-out, a lost connection) into one that names the missing ranks."""
        self._num_calls += 1
        try:
            yield
        except RuntimeError as error:
            missing = ", ".join(map(str, self._missing_ranks()))
            why = (
                f"rank {missing} did not arrive within communicator.timeout_s={self.timeout_s:g}; look at "
                "its log, or raise the time-out if it was only slow"
                if missing
                else "all ranks arrived, so they differ in what they sent"
            )
            raise CollectiveError(
                f"rank {self.rank} of {self.size} failed in {collective} over {self.communicator}: {why}. "
                f"Torch said: {str(error).splitlines()[0]}"
            ) from error

    def _missing_ranks(self) -> list[int]:
        """Tell through the store that this rank came to this call; return those that do not tell the same."""
        call = f"portable/arrived/{self._num_calls}"
        try:
            self._store.set(f"{call}/{self.rank}", "yes")
            time.sleep(_GRACE_S)
            return [r for r in range(self.size) if r != self.rank and not self._store.check([f"{call}/{r}"])]
        except RuntimeError:  # the store lived on the rank that is gone
            logger.warning(
                "the rendezvous store is out of reach too; taking the ranks other than %d as missing",
                self.rank,
            )
            return [r for r in range(self.size) if r != self.rank]
