"""Which rows may implement the kernels of a run."""

from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError


class SelfTest(Enum):
    """What is asked of a row before a run relies on it."""

    off = "off"
    right = "right"  # as near to float64 as the reference
    fast = "fast"  # and not slower than the row that would stand in for it


@dataclass(kw_only=True, slots=True)
class KernelConfig:
    """The policy by which rows are picked.

    ``rows`` names a row for an op, e.g. ``{attention: reference}``, for all its variants or, as in
    ``{rms_norm__add: reference}``, for one. Of the other ops' rows that fit, those whose name matches
    ``order`` come first, in that order, then the rest by priority. ``allow`` and ``deny`` are patterns of
    row names, such as ``npu_*``; the reference is always allowed. ``strict`` makes a named row that cannot
    be used an error instead of a logged fallback. ``self_test`` is the examination at start-up.
    """

    rows: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=lambda: ["*"])
    deny: list[str] = field(default_factory=list)
    strict: bool = True
    self_test: SelfTest = SelfTest.fast

    def __post_init__(self) -> None:
        if "reference" in self.deny:
            raise ConfigError(
                "kernel.deny names 'reference', the meaning of every op and its last resort; "
                "to be sure that another row is used, name it in kernel.rows"
            )
