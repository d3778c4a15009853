"""Who is missing when a call fails, and calls that never end on the device.

Every process has a thread that answers, over the rendezvous store, how far its process has come; it answers
also while the process waits for the transport. So a rank that merely sleeps is told from one that is gone,
and all ranks are given the same verdict, the first one.

On a device that works on its own the host does not wait for a collective. There, marks in the device's work
before and after each call tell the thread which one does not end, and whether this rank ever reached it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from portable.collective.protocol import WORLD_AXIS
from portable.device.stream import Event

logger = logging.getLogger(__name__)
_LONGEST_GRACE_S = 3.0
_POLLS_PER_GRACE = 8
_INQUIRY = "portable/inquiry"
_VERDICT = "portable/verdict"
_POSITION = "portable/position/{}"

Store = Any  # torch has no public name for the stores of its rendezvous


def count_of(axis: str, ranks: tuple[int, ...]) -> str:
    """Return the name of the count of a group's calls.

    An axis alone would not do: a process may have been in other groups of that name, with other ranks, and
    made more calls there than its peers of today.
    """
    return axis if axis == WORLD_AXIS else f"{axis} of {','.join(map(str, ranks))}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one axis, in which ``ranks`` (of the world) must meet.

    They count the calls of their group, except between pairs: there ``pairs`` tells by peer which count to
    look at, and how far it must be.
    """

    axis: str
    number: int
    text: str
    ranks: tuple[int, ...]
    pairs: dict[int, tuple[str, int]] | None = None

    def name(self, rank: int) -> str:
        """Return how a message calls ``rank`` of the world."""
        if self.axis == WORLD_AXIS:
            return f"rank {rank}"
        return (
            f"rank {self.ranks.index(rank)} (world rank {rank})"
            if rank in self.ranks
            else f"world rank {rank}"
        )

    @property
    def count(self) -> str:
        """The name of the group's count."""
        return count_of(self.axis, self.ranks)

    def needs(self, rank: int) -> tuple[str, int]:
        """Return the count of ``rank`` to look at, and how far it must be."""
        return (self.pairs or {}).get(rank, (self.count, self.number))


@dataclass(slots=True)
class _DeviceCall:
    call: Call
    before: Event
    after: Event
    since_s: float
    reached: bool = False


@dataclass(slots=True)
class _Position:
    """How far a rank has come: the last call by axis, on the host and on the device."""

    host: dict[str, int] = field(default_factory=dict)
    device: dict[str, int] = field(default_factory=dict)
    doing: str = "nothing"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ranks of the world that did not answer, and what those were at that had not come to the call."""

    axis: str
    call: str
    absent: list[int]
    behind: dict[str, str]


def patience_s(timeout_s: float) -> float:
    """Return how long a transport may wait, so that time is left to ask around before ``timeout_s`` is over.

    For backends whose transport takes its limit from elsewhere than torch.
    """
    return timeout_s - 2 * _grace_s(timeout_s)


class Watch:
    """One per process, shared by its groups.

    ``store`` must be this object's own connection. ``keeper`` says in words who serves the store;
    ``serves`` whether this process does.
    """

    def __init__(self, store: Store, rank: int, timeout_s: float, *, keeper: str, serves: bool) -> None:
        self.rank = rank
        self.timeout_s = timeout_s
        self.grace_s = _grace_s(timeout_s)
        self.failure: str | None = None
        self.on_failure: list[Callable[[], object]] = []
        self._keeper = keeper
        self._serves = serves
        self._period_s = self.grace_s / _POLLS_PER_GRACE
        self._store = store
        self._asking_store = store.clone()  # a connection carries one request at a time
        self._position = _Position()
        self._pending: list[_DeviceCall] = []
        self._lock = threading.Lock()
        self._verdict: Verdict | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="portable-watch", daemon=True)
        self._thread.start()

    @property
    def patience_s(self) -> float:
        """How long a transport may wait."""
        return patience_s(self.timeout_s)

    def enter(self, count: str, text: str) -> int:
        """Note that the host comes to its next call of those that ``count`` counts; return its number."""
        with self._lock:
            number = self._position.host[count] = self._position.host.get(count, 0) + 1
            self._position.doing = text
        return number

    def follow(self, call: Call, before: Event, after: Event) -> None:
        """Watch a call that the device has yet to do."""
        with self._lock:
            self._pending.append(_DeviceCall(call, before, after, time.monotonic()))

    def explain(self, call: Call) -> str:
        """Ask all ranks of a call that failed here how far they are; return who is at fault, in words."""
        asker = threading.Thread(target=self._ask, args=(call, False), daemon=True)
        asker.start()  # the store may be frozen with the process that serves it: do not wait for ever
        asker.join(1.5 * self.grace_s)
        if self._verdict is None:
            return f"{self._keeper}, which keeps the rendezvous, is gone or frozen; look at its log"
        return self._describe(self._verdict, call)

    def stop(self) -> None:
        """Stop answering."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        reachable = True
        while not self._stop.wait(self._period_s):
            if reachable:
                try:
                    self._answer(self._store)
                except RuntimeError:
                    # Its keeper has ended, in peace or not; a call that needs a peer will tell.
                    reachable = False
            self._look_at_device()

    def _answer(self, store: Store) -> None:
        if not store.check([_INQUIRY]):
            return
        with self._lock:
            position = json.dumps(asdict(self._position))
        store.set(_POSITION.format(self.rank), position)
        if store.check([_VERDICT]):
            self._verdict = Verdict(**json.loads(store.get(_VERDICT)))

    def _ask(self, call: Call, on_device: bool) -> None:
        store = self._asking_store
        try:
            store.set(_INQUIRY, "yes")
            self._answer(store)
            deadline = time.monotonic() + self.grace_s
            silent = set(call.ranks)
            while silent and time.monotonic() < deadline and self._verdict is None:
                silent -= {rank for rank in silent if store.check([_POSITION.format(rank)])}
                time.sleep(self._period_s / 2)
            if self._verdict is None:
                answers = {
                    rank: store.get(_POSITION.format(rank)) for rank in call.ranks if rank not in silent
                }
                verdict = _judge(call, on_device, {rank: json.loads(text) for rank, text in answers.items()})
                first = store.compare_set(_VERDICT, "", json.dumps(asdict(verdict)))
                self._verdict = Verdict(**json.loads(first))
            if self._serves:  # the others must have time to read it before this process ends
                time.sleep(3 * self._period_s)
        except RuntimeError as error:
            logger.warning("the rendezvous store is out of reach: %s", str(error).splitlines()[0])

    def _describe(self, verdict: Verdict, call: Call) -> str:
        found = "" if verdict.axis == call.axis else f" (found on axis '{verdict.axis}', in {verdict.call})"
        if verdict.absent:
            names = _list(map(call.name, verdict.absent))
            return f"{names} does not answer: it is gone or frozen; look at its log{found}"
        if verdict.behind:
            places = "; ".join(
                f"{call.name(int(rank))} last called {doing}" for rank, doing in verdict.behind.items()
            )
            return (
                f"{_list(call.name(int(rank)) for rank in verdict.behind)} did not arrive within "
                f"communicator.timeout_s={self.timeout_s:g} ({places}); look at its log, or raise the "
                f"time-out if it was only slow{found}"
            )
        return f"all ranks came to this call; the connection broke, or they sent different things{found}"

    def _look_at_device(self) -> None:
        now = time.monotonic()
        # The transport ends a process whose call takes too long, without a name: be done before it is.
        patience_s = self.patience_s - 1.5 * self.grace_s
        with self._lock:
            for item in self._pending:
                if not item.reached and item.before.query():
                    item.reached, item.since_s = True, now
                    self._position.device[item.call.count] = item.call.number
            self._pending = [item for item in self._pending if not item.after.query()]
            late = next((item for item in self._pending if now - item.since_s > patience_s), None)
        if late is None or self.failure is not None:
            return
        self._ask(late.call, on_device=True)
        call = f"{late.call.text}, call {late.call.number} on axis '{late.call.axis}'"
        why = self._describe(self._verdict, late.call) if self._verdict else f"{self._keeper} is gone"
        self.failure = f"rank {self.rank} waits on its device for the end of {call}: {why}"
        logger.error(self.failure)
        for release in self.on_failure:
            try:
                release()
            except RuntimeError as error:  # not every transport can let go of a call
                logger.warning("cannot abort the transport: %s", str(error).splitlines()[0])


def _grace_s(timeout_s: float) -> float:
    return min(_LONGEST_GRACE_S, timeout_s / 5)


def _judge(call: Call, on_device: bool, answers: dict[int, dict[str, Any]]) -> Verdict:
    """Find who is at fault: those that are silent; if none is, those that have not come to the call."""
    absent = [rank for rank in call.ranks if rank not in answers]
    behind: dict[str, str] = {}
    for rank, answer in answers.items():
        count, number = call.needs(rank)
        host = answer["host"].get(count, 0)
        reached = min(host, answer["device"].get(count, host)) if on_device else host
        if reached < number:
            behind[str(rank)] = answer["doing"]
    return Verdict(call.axis, call.text, absent, {} if absent else behind)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
