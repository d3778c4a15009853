"""Which function computes an op, on which device, and why that one.

Rows come from ``portable/kernel/reference`` (one for every op: the meaning) and from the entry-point group
``portable.kernels``. A kernel is picked once, in a constructor; hot loops hold the function itself.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from portable.core.errors import BackendUnavailable, CapabilityError, did_you_mean
from portable.core.registry import blame, load_target
from portable.kernel.config import KernelConfig

logger = logging.getLogger(__name__)
GROUP = "portable.kernels"
_REFERENCE = "portable.kernel.reference"
Kernel = Callable[..., Any]  # each op has its own signature, written in its reference


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """One row: ``target`` implements ``op`` on ``backend`` for ``dtypes``.

    ``name`` is what a config says to choose the row; of the rows that fit, the highest ``priority`` wins.
    ``rtol`` bounds its error relative to the reference in float64.
    """

    op: str
    name: str
    backend: str
    target: str
    dtypes: tuple[str, ...] = ("fp32", "bf16", "fp16")
    priority: int = 0
    rtol: float = 1e-5


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of the registry, for the record."""

    op: str
    name: str
    reason: str


REFERENCE_ENTRIES = tuple(
    KernelEntry(op=op, name="reference", backend="any", target=f"{_REFERENCE}.{module}:{op}", priority=-100)
    for op, module in {
        "rms_norm": "norm",
        "apply_rope": "rope",
        "swiglu": "swiglu",
        "attention": "attention",
        "decode_attention": "attention",
        "token_log_probs": "log_prob",
    }.items()
)


def all_entries(backend: str = "") -> list[KernelEntry]:
    """Return the reference rows and those of every installed package.

    A package whose rows cannot be loaded is passed over with a warning.
    Raises: BackendUnavailable if it is the one that registers rows as ``backend``.
    """
    entries = list(REFERENCE_ENTRIES)
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
    """The kernels of one run: a device, a number format and a policy."""

    def __init__(
        self,
        backend: str,
        dtype: str,
        config: KernelConfig | None = None,
        entries: Sequence[KernelEntry] | None = None,
    ) -> None:
        self.backend = backend
        self.dtype = dtype
        self.config = config or KernelConfig()
        self.entries = list(all_entries(backend) if entries is None else entries)
        self.trace: list[Choice] = []
        known = {entry.op for entry in self.entries}
        for op in self.config.rows:
            if op not in known:
                raise CapabilityError(
                    f"kernel.rows names the op '{op}'.{did_you_mean(op, known)} Known: {sorted(known)}"
                )

    def pick(self, op: str) -> Kernel:
        """Return the function for ``op`` and note why.

        Raises: CapabilityError if no row fits, or if a named row does not and the policy is strict.
        """
        rows = [entry for entry in self.entries if entry.op == op]
        if not rows:
            raise CapabilityError(
                f"no kernel computes '{op}'.{did_you_mean(op, {entry.op for entry in self.entries})}"
            )
        fitting = sorted((row for row in rows if not self._refusal(row)), key=lambda row: -row.priority)
        wanted = self.config.rows.get(op)
        if wanted is not None:
            named = [row for row in fitting if row.name == wanted]
            if named:
                return self._take(named[0], "named by kernel.rows")
            reason = self._why_not(rows, wanted)
            if self.config.strict or not fitting:
                raise CapabilityError(f"kernel.rows.{op}={wanted} cannot be used: {reason}")
            logger.warning(
                "kernel %s: %s cannot be used (%s); taking %s", op, wanted, reason, fitting[0].name
            )
        if not fitting:
            raise CapabilityError(f"no row of '{op}' fits {self.backend} with {self.dtype}")
        return self._take(fitting[0], "highest priority of the rows that fit")

    def rank(self, op: str) -> list[Choice]:
        """Return all rows of ``op`` in the order of choice; what keeps a row from being picked is its reason.

        Nothing is imported, and ``kernel.rows`` is not looked at: this is what the machine offers.
        """
        rows = sorted((row for row in self.entries if row.op == op), key=lambda row: -row.priority)
        refusals = {id(row): self._refusal(row) for row in rows}
        fitting = [row for row in rows if not refusals[id(row)]]
        behind = [
            Choice(op, row.name, f"priority {row.priority}, below {fitting[0].name}'s {fitting[0].priority}")
            for row in fitting[1:]
        ]
        unfit = [Choice(op, row.name, refusals[id(row)]) for row in rows if refusals[id(row)]]
        return [*(Choice(op, row.name, "") for row in fitting[:1]), *behind, *unfit]

    def _take(self, row: KernelEntry, reason: str) -> Kernel:
        choice = Choice(row.op, row.name, reason)
        if choice not in self.trace:
            self.trace.append(choice)
        return load_target(row.target)

    def _refusal(self, row: KernelEntry) -> str:
        if row.backend not in ("any", self.backend):
            return f"the row is for {row.backend}, this is {self.backend}"
        if self.dtype not in row.dtypes:
            return f"the row takes {', '.join(row.dtypes)}, not {self.dtype}"
        return ""

    def _why_not(self, rows: Sequence[KernelEntry], wanted: str) -> str:
        named = [row for row in rows if row.name == wanted]
        if not named:
            names = sorted({row.name for row in rows})
            return f"there is no such row.{did_you_mean(wanted, names)} Rows: {', '.join(names)}"
        return "; ".join(self._refusal(row) for row in named)
