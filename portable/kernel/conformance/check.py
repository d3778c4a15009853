"""Ask a row its op's cases: ``check_row``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch

from portable.core.registry import load_target
from portable.kernel.conformance.case import Case
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.examination import Examination, RowError, blamed
from portable.kernel.entry import Kernel, KernelEntry
from portable.kernel.op import complete_facts


class Verdict(Enum):
    """What came of a case."""

    passed = "passed"
    failed = "failed"
    refused = "refused"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one case.

    ``reason`` says why it failed or was refused; ``ratio`` is the largest error over the reference's.
    """

    case: str
    verdict: Verdict
    reason: str = ""
    ratio: float = 0.0


@dataclass(frozen=True, slots=True)
class RowReport:
    """What came of all cases of a row in one number format."""

    entry: KernelEntry
    dtype: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """The cases that failed."""
        return tuple(result for result in self.results if result.verdict is Verdict.failed)

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failures

    @property
    def num_run(self) -> int:
        """How many cases the row took."""
        return sum(result.verdict is not Verdict.refused for result in self.results)

    @property
    def num_refused(self) -> int:
        """How many cases the row refused beforehand."""
        return len(self.results) - self.num_run

    @property
    def worst(self) -> float:
        """The largest error, as a multiple of the reference's."""
        return max((result.ratio for result in self.results), default=0.0)


def check_row(
    entry: KernelEntry, device: torch.device, dtype: str, *, cases: Sequence[Case] | None = None
) -> RowReport:
    """Ask the row ``cases``, by default all of its op's, with tensors on ``device``.

    A row that cannot be loaded, or whose constraint does not answer as it should, fails every case.
    """
    asked = cases_of(entry.spec.id) if cases is None else cases
    results = (check_case(entry, device, dtype, case) for case in asked if dtype in case.dtypes)
    return RowReport(entry, dtype, tuple(results))


def check_case(entry: KernelEntry, device: torch.device, dtype: str, case: Case) -> Result:
    """Ask the row one case."""
    try:
        if reason := _refusal(entry, dtype, case):
            return Result(case.id, Verdict.refused, reason)
        with blamed("it cannot be loaded"):
            kernel: Kernel = load_target(entry.target)
        found = Examination(entry, kernel, case, dtype, device).run()
    except RowError as error:
        return Result(case.id, Verdict.failed, str(error), error.ratio)
    return Result(case.id, Verdict.passed, ratio=found)


def _refusal(entry: KernelEntry, dtype: str, case: Case) -> str:
    """Return why the row does not take the case. Raises: RowError for an answer that says nothing."""
    facts = complete_facts(entry.spec, case.facts)
    with blamed("its constraint raises"):
        reason: object = cast(
            object, entry.refusal(dtype, facts)
        )  # a plug-in's constraint may answer anything
    if not isinstance(reason, str) or (reason and not reason.strip()):
        raise RowError(f"its constraint answers {reason!r}; it owes a reason, or an empty text")
    return reason
