"""Settings of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from portable.core.errors import ConfigError

_TOLERANCE = 1e-3  # three shares of 0.333 are meant as thirds


@dataclass(kw_only=True, slots=True)
class CorpusConfig:
    """One corpus of a mixture: the folder ``data``, and the share ``weight`` of all samples that it gives.

    It is read at most ``epochs`` times (a fraction is a part of it; null: as often as needed). ``name`` is
    what metrics call it; by default the folder's name.
    """

    data: str = MISSING
    weight: float = MISSING
    epochs: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        # While a config is being composed a value may still be the text "???".
        if self.weight != MISSING and not (self.weight > 0 and math.isfinite(self.weight)):
            raise ConfigError(
                f"mixture: the weight of {self.data} is {self.weight}; use a share of the samples above 0, "
                "or leave the corpus out"
            )
        if self.epochs is not None and not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ConfigError(
                f"mixture: {self.data} is to be read for {self.epochs} epochs; use a positive number, or "
                "null for as many as are needed"
            )

    @property
    def label(self) -> str:
        """What metrics and errors call it."""
        return self.name or Path(self.data).name


def check_mixture(corpora: Sequence[CorpusConfig]) -> None:
    """Raise ConfigError unless the weights are shares of 1, and every corpus has a name of its own."""
    if not corpora:
        return
    total = sum(corpus.weight for corpus in corpora)
    if abs(total - 1) > _TOLERANCE:
        shares = ", ".join(f"{corpus.weight / total:.4g}" for corpus in corpora)
        raise ConfigError(
            f"the weights of the mixture sum to {total:.6g}, not to 1; in the same proportions they are "
            f"{shares}"
        )
    labels = [corpus.label for corpus in corpora]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(
            f"two corpora of the mixture are called {' and '.join(twice)}; give each a name= of its own"
        )
