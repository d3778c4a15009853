"""The examination at start-up: rows that are wrong or slow on this machine are not used, and it is said so.

It takes about a second. ``portable verify kernels`` is the thorough one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch

from portable.core.errors import PortableError, StorageError
from portable.core.registry import load_target
from portable.core.storage import file_digest, read_json, write_json
from portable.device.protocol import Device
from portable.kernel.conformance.case import Case
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.examination import Examination, RowError, blamed
from portable.kernel.conformance.oracle import call, differentiate, expect
from portable.kernel.entry import REFERENCE, KernelEntry
from portable.kernel.op import OPS, Op, complete_facts
from portable.kernel.registry import KernelSet

logger = logging.getLogger(__name__)

_QUICK = ("plain", "odd", "segments", "middle_shard", "z_loss", "both", "every_row_otherwise")
_NUM_QUICK = 3
_TIMED = "large"  # the case that is timed
_MARGIN = 1.5  # times slower than the next row; less is noise, or depends on sizes
_NUM_TIMES, _TIME_PER_PAIR_S = 7, 0.04
_FIRST_USE_S = (
    0.3  # a first call that takes longer has compiled something, which the run would wait for anyway
)

Agree = Callable[[list[str]], list[str]]
"""Takes this rank's verdicts and returns those that hold for all ranks."""


def examine(
    kernels: KernelSet,
    device: Device,
    *,
    index: int = 0,
    budget_s: float = 1.0,
    timed: bool = True,
    agree: Agree = lambda verdicts: verdicts,
) -> None:
    """Demote rows of ``kernels`` that do not stand a few cases of their op, or lose against the next row.

    Looked at is the row that each op would be given, in the order of ``OPS`` until ``budget_s`` is over; a
    row that has begun is finished, and what is compiled at a first use does not count. With ``timed`` it must
    not take 1.5 times as long as the row that would stand in for it; this verdict is remembered for the
    machine and holds for ops that are not reached, so that runs choose alike. Every rank must call this;
    ``agree`` makes their verdicts one.
    """
    started = time.perf_counter()
    memory = _Memory(device, index, kernels.dtype) if timed else None
    examiner = _Examiner(kernels, device, device.torch_device(index), memory)
    unreached: list[str] = []
    for op in OPS:
        if time.perf_counter() - started - examiner.compiling_s > budget_s:
            unreached.append(op.id)
            examiner.recall(op)
        else:
            examiner.examine(op)
    if memory is not None:
        memory.write()
    expect.cache_clear()
    _apply(kernels, agree([_to_text(entry, reason) for entry, reason in examiner.verdicts.items()]))
    logger.info(
        "kernels: %d rows examined in %.1f s%s",
        examiner.num_examined,
        time.perf_counter() - started,
        f"; no time was left for {', '.join(unreached)}" if unreached else "",
    )


@dataclass(slots=True)
class _Examiner:
    """Looks at one op after the other and keeps the verdicts: rows that should not be used, and why.

    ``compiling_s`` is what first uses have taken that compiled something.
    """

    kernels: KernelSet
    device: Device
    place: torch.device
    memory: _Memory | None
    verdicts: dict[KernelEntry, str] = field(default_factory=dict[KernelEntry, str])
    num_examined: int = 0
    compiling_s: float = 0.0

    def examine(self, op: Op) -> None:
        """Demote rows of ``op`` until the first one that fits is right, and not slow."""
        rows = self.kernels.candidates(op, {})
        wanted = self.kernels.config.rows.get(op.id, self.kernels.config.rows.get(op.name))
        named = [row for row in rows if row.name == wanted]
        if named:  # the user has chosen; it must only be right
            self._is_wrong(named[0])
            return
        while rows and rows[0].name != REFERENCE:
            if self._is_wrong(rows[0]):
                rows.pop(0)
                continue
            if self.memory is None or len(rows) == 1:
                return
            if rows[1].name != REFERENCE and self._is_wrong(rows[1]):
                rows.pop(1)
                continue
            if not self._is_slower(rows[0], rows[1]):
                return
            rows.pop(0)

    def recall(self, op: Op) -> None:
        """Demote the rows of ``op`` that an earlier run found slow."""
        rows = self.kernels.candidates(op, {})
        for row, other in pairwise(rows):
            reason = self.memory.recall(row, other) if self.memory is not None else None
            if not reason:
                return
            self.verdicts[row] = reason

    def _is_wrong(self, row: KernelEntry) -> bool:
        if row in self.verdicts or row.name == REFERENCE:
            return row in self.verdicts
        self.num_examined += 1
        for place, case in enumerate(_quick_cases(row, self.kernels.dtype)):
            started = time.perf_counter()
            try:
                with blamed("it cannot be loaded"):
                    kernel = load_target(row.target)
                Examination(row, kernel, case, self.kernels.dtype, self.place).check_values()
            except RowError as error:
                self.verdicts[row] = f"it is wrong here: {case.id}: {error}"
                return True
            took = time.perf_counter() - started
            if place == 0 and took > _FIRST_USE_S:
                self.compiling_s += took
        return False

    def _is_slower(self, row: KernelEntry, other: KernelEntry) -> bool:
        case = _case_named(row.spec, _TIMED)
        if self.memory is None or case is None or _refuses(row, case, self.kernels.dtype):
            return False
        reason = self.memory.recall(row, other)
        if reason is None:
            reason = self._compare_times(row, other, case)
            self.memory.keep(row, other, reason)
        if reason:
            self.verdicts[row] = reason
        return bool(reason)

    def _compare_times(self, row: KernelEntry, other: KernelEntry, case: Case) -> str:
        """Return in which way ``row`` is slower than ``other``, or "". A first finding is confirmed."""
        with_grad = bool(case.leaves) and row.differentiable and other.differentiable
        own, others = (self._timer(entry, case, with_grad) for entry in (row, other))
        own_s, other_s = _least_of_both(own, others)
        if own_s > _MARGIN * other_s:
            own_s, other_s = _least_of_both(own, others)
        if own_s <= _MARGIN * other_s:
            return ""
        return f"it takes {own_s * 1e3:.3g} ms here, {other.name} {other_s * 1e3:.3g} ms"

    def _timer(self, row: KernelEntry, case: Case, with_grad: bool) -> Callable[[], float]:
        """Return a function that calls the row once, backward ``with_grad``, and returns the seconds."""
        kernel = load_target(row.target)
        inputs = case.draw_inputs(self.kernels.dtype)
        cotangents = expect(case, self.kernels.dtype, self.place).cotangents

        def run() -> float:
            placed = case.place(inputs, self.place, with_grad=with_grad)
            self.device.synchronize()
            start = time.perf_counter()
            with torch.set_grad_enabled(with_grad):
                outputs = call(kernel, row.spec, placed)
            if with_grad:
                differentiate(case, placed, outputs, cotangents)
            self.device.synchronize()
            return time.perf_counter() - start

        return run


def _least_of_both(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Return the least time of each, taken in turns: whoever else uses the machine slows both."""
    one()
    other()  # what is compiled or allocated once does not count
    times = [(one(), other())]
    while len(times) < _NUM_TIMES and sum(map(sum, times)) < _TIME_PER_PAIR_S:
        times.append((one(), other()))
    return min(pair[0] for pair in times), min(pair[1] for pair in times)


class _Memory:
    """Which row was slower than which on this machine: a file for each device, torch and number format."""

    def __init__(self, device: Device, index: int, dtype: str) -> None:
        info = device.info(index)
        self._machine = {
            "torch": torch.__version__,
            "device": info.name,
            "arch": info.arch,
            "dtype": dtype,
            "num_threads": torch.get_num_threads(),
        }
        folder = Path(os.environ.get("PORTABLE_CACHE") or Path.home() / ".cache" / "portable")
        name = sha256(json.dumps(self._machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / "kernels" / f"{name}.json"
        self._verdicts: dict[str, str] = {}
        with suppress(OSError, StorageError, ValueError, KeyError, TypeError):  # unreadable is as good as new
            self._verdicts = dict(read_json(self.path)["verdicts"])
        self._changed = False

    def recall(self, row: KernelEntry, other: KernelEntry) -> str | None:
        """Return why ``row`` is slower than ``other``, "" if it is not, None if nobody has looked yet."""
        return self._verdicts.get(_pair(row, other))

    def keep(self, row: KernelEntry, other: KernelEntry, reason: str) -> None:
        """Note a verdict."""
        self._verdicts[_pair(row, other)] = reason
        self._changed = True

    def write(self) -> None:
        """Write the file, if there is news; a folder that cannot be written costs the next run its time."""
        if not self._changed:
            return
        try:
            write_json(self.path, {"machine": self._machine, "verdicts": self._verdicts})
        except (OSError, StorageError) as error:
            logger.info("kernels: what was timed is not remembered: %s", error)


def _quick_cases(row: KernelEntry, dtype: str) -> list[Case]:
    cases = (_case_named(row.spec, name) for name in _QUICK)
    fitting = [case for case in cases if case is not None and dtype in case.dtypes]
    return [case for case in fitting if not _refuses(row, case, dtype)][:_NUM_QUICK]


def _case_named(op: Op, name: str) -> Case | None:
    return next((case for case in cases_of(op.id) if case.name == name), None)


def _refuses(row: KernelEntry, case: Case, dtype: str) -> bool:
    return bool(row.refusal(dtype, complete_facts(row.spec, case.facts)))


def _pair(row: KernelEntry, other: KernelEntry) -> str:
    return f"{row.target} {_source(row)} / {other.target} {_source(other)}"


def _source(row: KernelEntry) -> str:
    """Return a digest of the module that a row lives in."""
    spec = find_spec(row.target.partition(":")[0])
    origin = spec.origin if spec else None
    return file_digest(Path(origin))[:16] if origin and Path(origin).is_file() else "built-in"


def _to_text(entry: KernelEntry, reason: str) -> str:
    return json.dumps([entry.spec.id, entry.name, entry.target, reason])


def _apply(kernels: KernelSet, verdicts: Sequence[str]) -> None:
    """Demote the rows of ``verdicts`` and warn of each."""
    for text in verdicts:
        op_id, name, target, reason = json.loads(text)
        row = next((row for row in kernels.entries if (row.spec.id, row.target) == (op_id, target)), None)
        if row is None:
            raise PortableError(
                f"kernel {op_id}: the ranks have different rows; {name} is not known to this one"
            )
        kernels.demoted[row] = reason
        logger.warning(
            "kernel %s: the row %s is not used: %s. Look closer: portable verify kernels --op %s --row %s",
            op_id,
            name,
            reason,
            op_id,
            name,
        )
