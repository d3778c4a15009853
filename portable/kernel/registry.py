"""Which function computes an op, on which device, and why that one.

Rows come from the reference (one for every op: the meaning) and from the entry-point group
``portable.kernels``. A kernel is picked once, in a constructor; hot loops hold the function itself.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import Any

from portable.core.errors import BackendUnavailable, CapabilityError, did_you_mean
from portable.core.registry import blame, load_target
from portable.kernel.composed.rows import ENTRIES as COMPOSED_ENTRIES
from portable.kernel.config import KernelConfig
from portable.kernel.entry import ANY, REFERENCE, REFERENCE_ENTRIES, Kernel, KernelEntry
from portable.kernel.op import OPS, STANDARD, Op, complete_facts, find_op

logger = logging.getLogger(__name__)
GROUP = "portable.kernels"


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of the registry, for the record: the row, why it, and why not those before it."""

    op: str
    name: str
    reason: str
    passed_over: tuple[str, ...] = ()


Observer = Callable[[Op, KernelEntry, Kernel], Kernel]
"""Sees every function that is picked and returns what is handed out in its place."""


def all_entries(backend: str = "") -> list[KernelEntry]:
    """Return the reference rows, ours in plain torch, and those of every installed package.

    A package whose rows cannot be loaded is passed over with a warning.
    Raises: BackendUnavailable if it is the one that registers rows as ``backend``.
    """
    entries = [*REFERENCE_ENTRIES, *COMPOSED_ENTRIES]
    for point in entry_points(group=GROUP):
        try:
            with blame(f"the kernel rows of '{point.name}' cannot be loaded"):
                entries.extend(load_target(point.value))
        except BackendUnavailable as error:
            if point.name == backend:
                raise
            logger.warning("%s; see portable doctor", error)
    return entries


class KernelSet:
    """The kernels of one run: a device, a number format and a policy.

    ``deterministic`` passes over rows whose result may change from call to call. ``demoted`` holds rows that
    failed an examination on this machine, with the reason; the reference cannot be demoted.
    """

    def __init__(
        self,
        backend: str,
        dtype: str,
        config: KernelConfig | None = None,
        entries: Sequence[KernelEntry] | None = None,
        *,
        deterministic: bool = False,
    ) -> None:
        self.backend = backend
        self.dtype = dtype
        self.config = config or KernelConfig()
        self.deterministic = deterministic
        self.entries = list(all_entries(backend) if entries is None else entries)
        self.trace: list[Choice] = []
        self.demoted: dict[KernelEntry, str] = {}
        self.observer: Observer | None = None
        self._check_policy()

    def pick(self, op: str, variant: str = STANDARD, **facts: Any) -> Kernel:  # Any: see Op.facts
        """Return the function for ``op`` and note why.

        Raises: CapabilityError for an unknown op, variant or fact; if no row fits; or if a named row does not
        and the policy is strict.
        """
        spec = find_op(op, variant)
        row, choice = self._decide(spec, complete_facts(spec, facts))
        if choice not in self.trace:
            self.trace.append(choice)
        kernel: Kernel = load_target(row.target)
        return kernel if self.observer is None else self.observer(spec, row, kernel)

    def rank(self, op: str, variant: str = STANDARD, **facts: Any) -> list[Choice]:  # Any: see Op.facts
        """Return all rows of the op in the order of choice; what keeps a row from being picked is its reason.

        Nothing is imported, and ``kernel.rows`` is not looked at: this is what the machine offers.
        """
        spec = find_op(op, variant)
        fitting, unfit = self._sort(spec, complete_facts(spec, facts))
        behind = [Choice(spec.id, row.name, self._behind(row, fitting[0])) for row in fitting[1:]]
        refused = [Choice(spec.id, row.name, reason) for row, reason in unfit]
        return [*(Choice(spec.id, row.name, "") for row in fitting[:1]), *behind, *refused]

    def candidates(self, op: Op, facts: Mapping[str, Any]) -> list[KernelEntry]:  # Any: see Op.facts
        """Return the rows that fit, best first; ``kernel.rows`` is not looked at."""
        return self._sort(op, complete_facts(op, facts))[0]

    def _decide(self, op: Op, facts: Mapping[str, Any]) -> tuple[KernelEntry, Choice]:
        fitting, unfit = self._sort(op, facts)
        passed_over = tuple(
            f"{row.name}: {reason}" for row, reason in unfit if row.backend in (ANY, self.backend)
        )
        wanted = self._named(op)
        if wanted is not None:
            named = [row for row in fitting if row.name == wanted]
            if named:
                return named[0], Choice(op.id, wanted, "named by kernel.rows")
            reason = "; ".join(why for row, why in unfit if row.name == wanted) or self._no_such_row(
                op, wanted
            )
            if self.config.strict or not fitting:
                raise CapabilityError(f"kernel.rows.{op.id}={wanted} cannot be used: {reason}")
            logger.warning(
                "kernel %s: %s cannot be used (%s); taking %s", op.id, wanted, reason, fitting[0].name
            )
        if not fitting:
            raise CapabilityError(f"no row of '{op.id}' fits {self.backend} with {self.dtype}")
        best = fitting[0]
        if self._place(best) < len(self.config.order):
            return best, Choice(op.id, best.name, "first in kernel.order of the rows that fit", passed_over)
        return best, Choice(op.id, best.name, "highest priority of the rows that fit", passed_over)

    def _sort(
        self, op: Op, facts: Mapping[str, Any]
    ) -> tuple[list[KernelEntry], list[tuple[KernelEntry, str]]]:
        """Return the rows that fit, best first, and the others with the reason, best first."""
        rows = [row for row in self.entries if (row.op, row.variant) == (op.name, op.variant)]
        rows.sort(key=lambda row: (self._place(row), -row.priority))
        judged = [(row, self._refusal(row, facts)) for row in rows]
        return [row for row, reason in judged if not reason], [pair for pair in judged if pair[1]]

    def _place(self, row: KernelEntry) -> int:
        """Return the place of the row in ``kernel.order``, or behind all if no pattern names it."""
        order = self.config.order
        return next((place for place, name in enumerate(order) if fnmatchcase(row.name, name)), len(order))

    def _behind(self, row: KernelEntry, best: KernelEntry) -> str:
        if self._place(row) != self._place(best):
            return f"behind {best.name} in kernel.order"
        return f"priority {row.priority}, below {best.name}'s {best.priority}"

    def _refusal(self, row: KernelEntry, facts: Mapping[str, Any]) -> str:
        if row.backend not in (ANY, self.backend):
            return f"the row is for {row.backend}, this is {self.backend}"
        if row.name != REFERENCE:
            if not any(fnmatchcase(row.name, pattern) for pattern in self.config.allow):
                return "kernel.allow does not name it"
            if any(fnmatchcase(row.name, pattern) for pattern in self.config.deny):
                return "kernel.deny names it"
        if self.deterministic and not row.deterministic:
            return "its result may change from call to call, and the run is deterministic"
        return row.refusal(self.dtype, facts) or self.demoted.get(row, "")

    def _named(self, op: Op) -> str | None:
        """Return the row that the config names for this variant, or for the op if some variant has it."""
        rows = self.config.rows
        return rows.get(op.id, None if op.variant == STANDARD else self._named_for_all(op))

    def _named_for_all(self, op: Op) -> str | None:
        wanted = self.config.rows.get(op.name)
        variants = {row.variant for row in self.entries if (row.op, row.name) == (op.name, wanted)}
        return wanted if op.variant in variants or not variants else None

    def _no_such_row(self, op: Op, wanted: str) -> str:
        names = sorted({row.name for row in self.entries if (row.op, row.variant) == (op.name, op.variant)})
        return f"there is no such row.{did_you_mean(wanted, names)} Rows: {', '.join(names)}"

    def _check_policy(self) -> None:
        known = {op.id for op in OPS} | {op.name for op in OPS}
        for op in self.config.rows:
            if op not in known:
                raise CapabilityError(
                    f"kernel.rows names the op '{op}'.{did_you_mean(op, known)} Known: {sorted(known)}"
                )
        names = {row.name for row in self.entries}
        for field in ("order", "allow", "deny"):
            for pattern in getattr(self.config, field):
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise CapabilityError(
                        f"kernel.{field} names '{pattern}', which is no row.{did_you_mean(pattern, names)} "
                        f"Rows: {', '.join(sorted(names))}"
                    )
