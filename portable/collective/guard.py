"""What surrounds every call of a group: ranks compare what they will do, and whoever is missing is named."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from portable.collective.transport import HOST_TRANSPORT, Transport
from portable.collective.watch import Call, Watch, count_of
from portable.core.errors import CollectiveError

if TYPE_CHECKING:
    from portable.device.stream import Event

_NUMBER = struct.Struct("<d")
_COUNT = struct.Struct("<q")
_RECORD_BYTES = 192
_TEXT_BYTES = _RECORD_BYTES - _NUMBER.size
# How a transport speaks of peers it has lost, in whatever class of error.
_TRANSPORT_WORDS = ("connection", "timed out", "timeout", "broken pipe", "socket", HOST_TRANSPORT)


class OutOfStepError(CollectiveError):
    """Ranks are about to do different things; the text tells which rank does what."""


class RollCall:
    """Gathers one small record a rank over the host's transport.

    A record holds 8 bytes that may differ, and the text of the call, which may not: so a host number is
    added, or a count told, by the message that finds a rank which is out of step.
    """

    def __init__(self, control: ProcessGroup, name: Callable[[int], str]) -> None:
        self.text = ""
        self._control = control
        self._name = name
        self._own = bytearray(_RECORD_BYTES)
        self._all = bytearray(_RECORD_BYTES * control.size())
        # Views of the two arrays: what is written into these is what travels.
        self._sent = torch.frombuffer(self._own, dtype=torch.uint8)
        self._received = torch.frombuffer(self._all, dtype=torch.uint8)

    def compare(self) -> None:
        """Raises: OutOfStepError if not all ranks are at the same call."""
        self._exchange(bytes(_NUMBER.size))

    def numbers(self, value: float) -> list[float]:
        """Compare, and return all ranks' values in rank order."""
        return [_NUMBER.unpack(payload)[0] for payload in self._exchange(_NUMBER.pack(value))]

    def counts(self, value: int) -> list[int]:
        """Compare, and return all ranks' whole numbers in rank order."""
        return [_COUNT.unpack(payload)[0] for payload in self._exchange(_COUNT.pack(value))]

    def _exchange(self, payload: bytes) -> list[bytes]:
        text = _fit(self.text)
        self._own[:] = payload + text
        work: Any = self._control.all_gather_single(self._received, self._sent)  # Any: torch's Work
        work.wait()
        starts = range(0, len(self._all), _RECORD_BYTES)
        texts = [bytes(self._all[start + _NUMBER.size : start + _RECORD_BYTES]) for start in starts]
        if any(other != text for other in texts):
            raise OutOfStepError(self._difference(texts))
        return [bytes(self._all[start : start + _NUMBER.size]) for start in starts]

    def _difference(self, texts: list[bytes]) -> str:
        """Tell who calls what; the smaller party comes first, as it is likelier at fault."""
        callers: dict[bytes, list[str]] = {}
        for rank, text in enumerate(texts):
            callers.setdefault(text, []).append(self._name(rank))
        parties = sorted(callers.items(), key=lambda party: len(party[1]))
        return "; ".join(
            f"{', '.join(names)} calls {text.rstrip(bytes(1)).decode(errors='replace')}"
            for text, names in parties
        )


def _fit(text: str) -> bytes:
    """Return ``text`` in ``_TEXT_BYTES``; a long one ends in a checksum of the whole."""
    data = text.encode()
    if len(data) > _TEXT_BYTES:
        data = data[: _TEXT_BYTES - 9] + b"~%08x" % zlib.crc32(data)
    return data.ljust(_TEXT_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class HostSide:
    """The small group that carries what the host says."""

    group: ProcessGroup
    roll: RollCall
    transport: Transport


class Guard:
    """Surrounds the calls of one group.

    ``ranks`` are the members' ranks in the world; ``communicator`` and ``transport`` are our and torch's name
    of what carries the tensors.
    """

    def __init__(
        self,
        axis: str,
        ranks: tuple[int, ...],
        control: ProcessGroup,
        watch: Watch,
        new_event: Callable[[], Event],
        *,
        communicator: str,
        transport: str,
    ) -> None:
        self.axis = axis
        self.ranks = ranks
        self.rank = control.rank()
        self.communicator = communicator
        self._watch = watch
        self._count = count_of(axis, ranks)
        self._new_event = new_event
        self._words = (*_TRANSPORT_WORDS, communicator.lower(), transport.lower())
        nowhere = Call(axis, 0, "", ranks)
        roll = RollCall(control, lambda rank: nowhere.name(ranks[rank]))
        self._side: HostSide | None = HostSide(control, roll, Transport(control))

    @contextlib.contextmanager
    def call(self, text: str, *, compares: bool, on_device: bool) -> Generator[HostSide]:
        """Surround a call that all ranks make. It is compared first, unless the block does so itself.

        Raises: CollectiveError if ranks are late, gone or out of step.
        """
        side = self._open_side()
        call = Call(self.axis, self._watch.enter(self._count, text), text, self.ranks)
        side.roll.text = f"{text} as call {call.number}"
        try:
            if compares:
                side.roll.compare()
            with self._followed(call) if on_device else contextlib.nullcontext():
                yield side
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._failed(call, error) from error
        except OutOfStepError as error:
            raise CollectiveError(
                f"rank {self.rank} of {len(self.ranks)} on axis '{self.axis}' stopped before call "
                f"{call.number}, for not all ranks make the same: {error}"
            ) from error

    def number_pairs(self, text: str, peers: Sequence[int]) -> Call:
        """Return a call that only this rank and ``peers`` make, each named once a message."""
        self._open_side()
        own = self.ranks[self.rank]
        numbers: dict[int, tuple[str, int]] = {}
        for peer in map(self.ranks.__getitem__, peers):
            key = f"{self.axis} {min(own, peer)}-{max(own, peer)}"
            numbers[peer] = key, self._watch.enter(key, text)
        return Call(self.axis, 0, text, (own, *numbers), numbers)

    @contextlib.contextmanager
    def pair(self, call: Call) -> Generator[None]:
        """Surround such a call, or a part of it: its beginning, its end."""
        self._open_side()
        try:
            with self._followed(call):
                yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self._failed(call, error) from error

    @contextlib.contextmanager
    def block(self, what: str) -> Generator[None]:
        """Surround a block in which torch communicates by itself; only the transport's errors are changed."""
        self._open_side()
        call = Call(self.axis, self._watch.enter(self._count, what), what, self.ranks)
        try:
            with self._followed(call):
                yield
        except RuntimeError as error:
            if not self._is_transports(error):
                raise
            raise self._failed(call, error) from error

    def let_go(self) -> None:
        """Close the host side's connections: peers that wait there learn at once that this rank is lost."""
        side, self._side = self._side, None
        if side is not None and dist.is_initialized():
            dist.destroy_process_group(side.group)

    def _open_side(self) -> HostSide:
        if self._watch.failure is not None:
            raise CollectiveError(self._watch.failure)
        if self._side is None:
            raise CollectiveError(f"the group on axis '{self.axis}' is closed; make another one")
        return self._side

    @contextlib.contextmanager
    def _followed(self, call: Call) -> Generator[None]:
        """Mark the device's work before and after the block; what is then still to be done is watched."""
        before, after = self._new_event(), self._new_event()
        before.record()
        yield
        after.record()
        if not after.query():
            self._watch.follow(call, before, after)

    def _failed(self, call: Call, error: RuntimeError) -> CollectiveError:
        self.let_go()
        if self._watch.failure is None:
            torch_said = str(error).splitlines()[0]
            why = self._watch.explain(call) if self._is_transports(error) else "torch refused the call"
            number = f" (call {call.number})" if call.number else ""
            self._watch.failure = (
                f"rank {self.rank} of {len(self.ranks)} on axis '{self.axis}' failed in {call.text} over "
                f"{self.communicator}{number}: {why}. Torch said: {torch_said}"
            )
        return CollectiveError(self._watch.failure)

    def _is_transports(self, error: RuntimeError) -> bool:
        text = str(error).lower()
        return isinstance(error, dist.DistError) or any(word in text for word in self._words)
