"""Which rows may implement the kernels of a run."""

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class KernelConfig:
    """``rows`` names a row for an op, e.g. ``{attention: reference}``; other ops take the best row that fits.

    ``strict`` makes a named row that cannot be used an error instead of a logged fallback.
    """

    rows: dict[str, str] = field(default_factory=dict)
    strict: bool = True
