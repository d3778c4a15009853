"""A group over ``torch.distributed``, for whichever communicator the device has.

Tensors travel over the device's communicator. Host numbers, objects and the comparison of calls go over a
second, small group on the CPU's transport, so that they never wait for the device.
"""

from __future__ import annotations

import atexit
import datetime
import gc
import math
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from portable.collective.check import check_counts, check_divides, check_parts, check_peer, check_reduction
from portable.collective.guard import Guard, HostSide
from portable.collective.node import NodeGroups, node_parts
from portable.collective.protocol import WORLD_AXIS, Collective, ReduceOp
from portable.collective.resolve import Reduction, resolve
from portable.collective.transport import HOST_TRANSPORT, Transport
from portable.collective.watch import Call, Watch
from portable.core.errors import CapabilityError, CollectiveError, ShapeError
from portable.device.capability import Capability

if TYPE_CHECKING:
    from portable.collective.place import LaunchPlace
    from portable.device.protocol import Device
    from portable.device.stream import Event

_DRAIN_S = 0.2  # for the transport's threads, before the interpreter may end


@dataclass(frozen=True, slots=True)
class World:
    """What all groups of a process share. ``transport`` is torch's name of the communicator."""

    capability: Capability
    transport: str
    place: LaunchPlace
    watch: Watch
    new_event: Callable[[], Event]
    check_calls: bool


def new_host_group(timeout_s: float, ranks: list[int] | None = None) -> ProcessGroup:
    """Return a new group over the CPU's transport; all ranks of the world must ask for it."""
    group = dist.new_group(ranks, backend=HOST_TRANSPORT, timeout=_timeout(timeout_s))
    if not isinstance(group, ProcessGroup):
        raise CollectiveError(
            f"this process is not among the ranks {ranks} of the new group; name it among them"
        )
    return group


def join_world(
    device: Device,
    place: LaunchPlace,
    store: Any,  # Any: torch has no public name for the stores of its rendezvous
    watch: Watch,
    *,
    transport: str | None,
    check_calls: bool,
) -> TorchGroup:
    """Return the group of all ranks, which have met in ``store``.

    Raises: CollectiveError if they cannot connect.
    """
    capability = device.capability()
    name = transport or capability.communicator
    # The world carries tensors of the host too: wrappers keep a few there, e.g. an optimiser's step count.
    both = HOST_TRANSPORT if name == HOST_TRANSPORT else f"cpu:{HOST_TRANSPORT},{device.torch_type}:{name}"
    try:
        dist.init_process_group(
            both,
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=_timeout(watch.patience_s),
        )
        control = new_host_group(watch.patience_s)
    except RuntimeError as error:
        watch.stop()
        raise CollectiveError(
            f"rank {place.rank} of {place.world_size} met the others but cannot connect over {name}; check "
            f"the network between the hosts. Torch said: {str(error).splitlines()[0]}"
        ) from error
    data = dist.group.WORLD
    if data is None:
        raise CollectiveError(
            "torch has no group of the world after it was made; was it destroyed meanwhile?"
        )
    world = World(capability, name, place, watch, device.new_event, check_calls)
    return TorchGroup(world, data, control, WORLD_AXIS, tuple(range(place.world_size)))


class TorchExchange:
    """Tensors on their way; what is sent is held until the end.

    ``works`` are those of the receives, then of the sends, or a single one if the transport groups them.
    """

    def __init__(
        self, guard: Guard, call: Call, works: list[dist.Work], results: list[Tensor], sent: list[Tensor]
    ) -> None:
        self._guard, self._call = guard, call
        self._works = dict(enumerate(works))  # those still to be waited for: each may be once
        self._told_apart = len(works) == len(results) + len(sent)
        self._results, self._sent = dict(enumerate(results)), sent

    def take(self, place: int) -> Tensor:
        """Return what was received at ``place``, and let go of it."""
        self._end([place] if self._told_apart else [*self._works])
        return self._results.pop(place)

    def wait(self) -> list[Tensor]:
        """Return what was received and not taken. A second call returns the same."""
        self._end([*self._works])
        self._sent.clear()
        return list(self._results.values())

    def _end(self, places: Sequence[int]) -> None:
        with self._guard.pair(self._call):
            for place in places:
                if place in self._works:
                    self._works.pop(place).wait()


class TorchGroup:
    """Some or all ranks of a ``torch.distributed`` world: made by ``join_world``, and by its result."""

    def __init__(
        self, world: World, data: ProcessGroup, control: ProcessGroup, axis: str, ranks: tuple[int, ...]
    ) -> None:
        self.rank = data.rank()
        self.size = data.size()
        self.local_rank = world.place.local_rank
        self.axis = axis
        self.ranks = ranks
        self.communicator = world.capability.communicator
        self.process_group: ProcessGroup | None = data
        self._world = world
        self._transport = Transport(data)
        self._plan = resolve(world.capability, self._transport)
        self._guard = Guard(
            axis,
            ranks,
            control,
            world.watch,
            world.new_event,
            communicator=self.communicator,
            transport=world.transport,
        )
        world.watch.on_failure.append(data.abort)
        if axis == WORLD_AXIS:
            atexit.register(self.close)

    def resolution(self) -> dict[str, str]:
        """Return for each collective, reduction and number format what was chosen, and why."""
        checked = self._world.check_calls
        return {
            **self._plan.choices,
            "many tensors": "laid into one buffer",
            "calls": "compared by all ranks first" if checked else "not compared: communicator.check_calls",
        }

    def all_reduce(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Return the reduction over all ranks; same shape and dtype."""
        reduction = self._reduction(tensor, op, factor)
        with self._calling(Collective.all_reduce, tensor, f"{op.name} of"):
            return reduction.all_reduce(tensor, factor)

    def all_reduce_many(
        self, tensors: Sequence[Tensor], op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0
    ) -> list[Tensor]:
        """Reduce many small tensors in one call per dtype."""
        return _in_one_buffer(tensors, lambda flat: self.all_reduce(flat, op, factor=factor))

    def reduce_scatter(self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0) -> Tensor:
        """Reduce (size * n, ...) over ranks and return this rank's (n, ...)."""
        check_divides(tensor, self.size, "reduce_scatter")
        reduction = self._reduction(tensor, op, factor)
        with self._calling(Collective.reduce_scatter, tensor, f"{op.name} of"):
            return reduction.reduce_scatter(tensor, factor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return all ranks' tensors stacked along a new first dim: (size, *shape)."""
        with self._calling(Collective.all_gather, tensor):
            rows = self._plan.moves[Collective.all_gather](self._pack(tensor, 1))
            return _unpack(rows, tensor, (self.size, *tensor.shape))

    def all_gather_uneven(self, tensor: Tensor) -> list[Tensor]:
        """Return all ranks' (n, ...), whose n may differ, in rank order.

        The n are told over the host; the shorter tensors travel filled up to the longest.
        """
        check_divides(tensor, 1, "all_gather_uneven")
        with self._calling(Collective.all_gather, tensor, "uneven", uneven=True) as host:
            counts = host.roll.counts(tensor.shape[0])
            filled = tensor.new_zeros((max(counts), *tensor.shape[1:]))
            filled[: tensor.shape[0]] = tensor
            rows = self._plan.moves[Collective.all_gather](self._pack(filled, 1))
            blocks = _unpack(rows, tensor, (self.size, *filled.shape))
            return [block[:count].clone() for block, count in zip(blocks, counts, strict=True)]

    def all_to_all(self, tensor: Tensor) -> Tensor:
        """Send the r-th of ``size`` equal slices to rank r; return what was received, in rank order."""
        check_divides(tensor, self.size, "all_to_all")
        counts = [tensor.shape[0] // self.size] * self.size
        with self._calling(Collective.all_to_all, tensor):
            rows = self._pack(tensor, tensor.shape[0])
            return _unpack(
                self._plan.moves[Collective.all_to_all](rows, counts, counts), tensor, tensor.shape
            )

    def all_to_all_uneven(
        self, tensor: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Send ``send_counts[r]`` rows to rank r; return the rows received and how many came from each."""
        check_counts(tensor, send_counts, self.size)
        with self._calling(Collective.all_to_all, tensor, "uneven", uneven=True) as host:
            # The counts are told even where they are known: a wrong one would be an overrun, or a hang.
            told = host.transport.all_gather(torch.tensor([send_counts], dtype=torch.int64))
            received = told[:, self.rank].tolist()
            if receive_counts is not None and list(receive_counts) != received:
                raise ShapeError(
                    f"rank {self.rank} expects {list(receive_counts)} rows, but the ranks send {received}"
                )
            rows = self._pack(tensor, tensor.shape[0])
            rows = self._plan.moves[Collective.all_to_all](rows, send_counts, received)
            return _unpack(rows, tensor, (sum(received), *tensor.shape[1:])), received

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return ``source``'s tensor on every rank."""
        check_peer(source, self)
        with self._calling(Collective.broadcast, tensor, f"from {source} of"):
            rows = self._plan.moves[Collective.broadcast](self._pack(tensor, 1, copy=True), source)
            return _unpack(rows, tensor, tensor.shape)

    def broadcast_many(self, tensors: Sequence[Tensor], source: int = 0) -> list[Tensor]:
        """Return ``source``'s tensors on every rank, in one call per dtype."""
        return _in_one_buffer(tensors, lambda flat: self.broadcast(flat, source))

    def gather(self, tensor: Tensor, target: int = 0) -> Tensor | None:
        """Return all ranks' tensors as (size, *shape) on ``target``, None elsewhere."""
        check_peer(target, self)
        with self._calling(Collective.gather, tensor, f"to {target} of"):
            rows = self._plan.moves[Collective.gather](self._pack(tensor, 1), target)
            return None if rows is None else _unpack(rows, tensor, (self.size, *tensor.shape))

    def scatter(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the rank-th (n, ...) of ``source``'s (size * n, ...)."""
        check_peer(source, self)
        check_divides(tensor, self.size, "scatter")
        with self._calling(Collective.scatter, tensor, f"from {source} of"):
            rows = self._plan.moves[Collective.scatter](self._pack(tensor, self.size), source)
            return _unpack(rows, tensor, (tensor.shape[0] // self.size, *tensor.shape[1:]))

    def send(self, tensor: Tensor, target: int) -> None:
        """Send to one rank, which calls ``recv``."""
        with self._exchanging(f"send {_looks(tensor)} to {target}", [tensor], [target]):
            self._transport.send(self._pack(tensor, 1), target)

    def recv(self, like: Tensor, source: int) -> Tensor:
        """Return what ``source`` sends: a tensor with shape, dtype and device of ``like``."""
        with self._exchanging(f"recv {_looks(like)} from {source}", [like], [source]):
            return _unpack(self._transport.recv(self._pack(like, 1, copy=True), source), like, like.shape)

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> list[Tensor]:
        """Send to and receive from several ranks at once, whatever the order of the lists."""
        return self.begin_exchange(sends, receives).wait()

    def begin_exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> TorchExchange:
        """Begin the same, and return at once; ``wait`` on what is returned ends it."""
        tensors, peers = zip(*sends, *receives, strict=True) if sends or receives else ((), ())
        call = self._number_pairs(f"exchange with {sorted(set(peers))}", tensors, peers)
        outgoing = [(self._pack(tensor, 1), target) for tensor, target in sends]
        landed = [(self._pack(like, 1, copy=True), source) for like, source in receives]
        with self._guard.pair(call):
            works = self._transport.begin_exchange(outgoing, landed)
        pairs = zip(landed, receives, strict=True)
        results = [_unpack(rows, like, like.shape) for (rows, _), (like, _) in pairs]
        return TorchExchange(self._guard, call, works, results, [rows for rows, _ in outgoing])

    def sum_scalar(self, value: float) -> float:
        """Add a host number over ranks, in float64 and in rank order; the device does not wait."""
        with self._guard.call("sum_scalar", compares=False, on_device=False) as host:
            return sum(host.roll.numbers(float(value)))

    def broadcast_object(self, value: Any, source: int = 0) -> Any:  # Any: any picklable object
        """Return ``source``'s object on every rank."""
        check_peer(source, self)
        with self._guard.call(f"broadcast_object from {source}", compares=False, on_device=False) as host:
            data = pickle.dumps(value) if self.rank == source else b""
            length = host.roll.counts(len(data))[source]
            sent = host.transport.broadcast(_bytes(data, length), source)
            return value if self.rank == source else pickle.loads(bytes(sent.tolist()))

    def all_gather_object(self, value: Any) -> list[Any]:  # Any: any picklable object
        """Return all ranks' objects, in rank order."""
        with self._guard.call("all_gather_object", compares=False, on_device=False) as host:
            data = pickle.dumps(value)
            lengths = host.roll.counts(len(data))
            rows = host.transport.all_gather(_bytes(data, max(lengths)).unsqueeze(0)).tolist()
            return [pickle.loads(bytes(row[:length])) for row, length in zip(rows, lengths, strict=True)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        with self._guard.call("barrier", compares=True, on_device=False):
            pass

    def split(self, axis: str, parts: Sequence[Sequence[int]]) -> TorchGroup:
        """Split the world into groups of these ranks; return the one that this rank is in."""
        check_parts(parts, self.size)
        groups = [self.subgroup(axis, part) for part in parts]
        return next(group for group in groups if group is not None)

    def subgroup(self, axis: str, ranks: Sequence[int]) -> TorchGroup | None:
        """Return a group of these ranks, None for others. All ranks of the world must call."""
        if self.axis != WORLD_AXIS or axis == WORLD_AXIS:
            raise CapabilityError(
                f"axis '{axis}' was asked of the group on axis '{self.axis}'; all processes must take "
                "part, so ask the world's group, by world ranks and by another name than its own"
            )
        members = tuple(ranks)
        for rank in members:
            check_peer(rank, self)
        if not members or len(set(members)) != len(members):
            raise ShapeError(f"axis '{axis}' was given the ranks {list(ranks)}; name one or more, each once")
        with self._guard.call(f"subgroup '{axis}' of {list(members)}", compares=True, on_device=False):
            patience = _timeout(self._world.watch.patience_s)
            data, control = (
                dist.new_group(list(members), timeout=patience, backend=backend, sort_ranks=False)
                for backend in (None, HOST_TRANSPORT)
            )
        if not isinstance(data, ProcessGroup) or not isinstance(control, ProcessGroup):
            return None  # torch gives those that are left out a token
        return TorchGroup(self._world, data, control, axis, members)

    def by_node(self) -> NodeGroups:
        """Return this rank's group inside its node and the one between the nodes.

        Nodes are told apart by GROUP_RANK or SLURM_NODEID, else by the host's name.
        """
        parts = node_parts(self.all_gather_object(self._world.place.node))
        inside = self.split("node", parts)
        return NodeGroups(inside, self.split("between_nodes", list(zip(*parts, strict=True))))

    def naming_ranks(self, what: str) -> AbstractContextManager[None]:
        """Turn the transport's errors in the block, in which torch itself communicates, into one that names
        the rank and the axis. Other errors pass."""
        return self._guard.block(what)

    def close(self) -> None:
        """Leave the group; that of the world takes all others with it. A process that ends does so by itself.

        A thread of the transport may still be waiting for Python's lock, to let go of the last tensor. If
        the interpreter ends meanwhile, the process aborts after all its work; so the thread gets its turn.
        """
        self._guard.let_go()
        if self.axis != WORLD_AXIS:
            return
        atexit.unregister(self.close)
        self._world.watch.stop()
        if dist.is_initialized():
            dist.destroy_process_group()
            gc.collect()  # who lets go of the last reference to a torch group waits for its threads
            time.sleep(_DRAIN_S)

    def _reduction(self, tensor: Tensor, op: ReduceOp, factor: float) -> Reduction:
        check_reduction(tensor, op, factor)
        found = self._plan.reductions.get((op, tensor.dtype))
        if found is None:
            reason = self._plan.refused.get((op, tensor.dtype), "it is no format that this library reduces")
            raise CapabilityError(
                f"cannot reduce {op.name} of {_looks(tensor)} on axis '{self.axis}': {reason}"
            )
        return found

    def _calling(
        self, collective: Collective, tensor: Tensor, how: str = "", *, uneven: bool = False
    ) -> AbstractContextManager[HostSide]:
        """Surround a call of all ranks. An ``uneven`` one compares no first dim, and its sizes by itself."""
        self._refuse(collective, tensor)
        text = " ".join(filter(None, (collective.name, how, _looks(tensor, skip=uneven))))
        compares = self._world.check_calls and not (uneven and collective is Collective.all_gather)
        return self._guard.call(text, compares=compares, on_device=True)

    def _exchanging(
        self, text: str, tensors: Sequence[Tensor], peers: Sequence[int]
    ) -> AbstractContextManager[None]:
        return self._guard.pair(self._number_pairs(text, tensors, peers))

    def _number_pairs(self, text: str, tensors: Sequence[Tensor], peers: Sequence[int]) -> Call:
        for tensor in tensors:
            self._refuse(Collective.send_recv, tensor)
        for peer in peers:
            check_peer(peer, self, other=True)
        return self._guard.number_pairs(text, peers)

    def _refuse(self, collective: Collective, tensor: Tensor) -> None:
        reason = self._plan.refused.get(collective) or self._plan.refused.get(tensor.dtype)
        if reason:
            raise CapabilityError(
                f"cannot {collective.name} {_looks(tensor)} on axis '{self.axis}': {reason}"
            )

    def _pack(self, tensor: Tensor, rows: int, *, copy: bool = False) -> Tensor:
        """Return (rows, ...) that the transport can carry: contiguous, in bytes if it lacks the dtype."""
        data = tensor.clone(memory_format=torch.contiguous_format) if copy else tensor.contiguous()
        data = data.view(rows, tensor.numel() // rows if rows else math.prod(tensor.shape[1:]))
        return data if tensor.dtype in self._plan.carried else data.view(torch.uint8)


def _unpack(rows: Tensor, like: Tensor, shape: Sequence[int]) -> Tensor:
    return rows.view(like.dtype).view(shape)


def _in_one_buffer(tensors: Sequence[Tensor], call: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Lay the tensors of each dtype into one buffer, ``call`` with it, and return views of the results."""
    results: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype is dtype]
        flat = call(torch.cat([tensors[place].flatten() for place in places]))
        parts = flat.split([tensors[place].numel() for place in places])
        results |= {place: part.view(tensors[place].shape) for place, part in zip(places, parts, strict=True)}
    return [results[place] for place in range(len(tensors))]


def _looks(tensor: Tensor, *, skip: bool = False) -> str:
    """Return dtype and shape in words; with ``skip``, the first dim may be any."""
    shape = ", ".join([*("any" for _ in range(skip)), *map(str, tensor.shape[int(skip) :])])
    return f"{str(tensor.dtype).removeprefix('torch.')} ({shape})"


def _bytes(data: bytes, length: int) -> Tensor:
    return torch.frombuffer(bytearray(data.ljust(length, b"\0")), dtype=torch.uint8)


def _timeout(seconds: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=seconds)
