"""What a data op is: a function of one document, with a reason whenever it says no."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from portable.core.record import Document


class OpKind(Enum):
    """A mapper may rewrite a document, a filter only keeps or rejects it."""

    mapper = "mapper"
    filter = "filter"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a document is dropped. ``reason`` is one of a few fixed words, so that rejections can be counted by
    it.
    """

    reason: str


@runtime_checkable
class DataOp(Protocol):
    """A dataclass whose fields are its settings, so that a config can name it and change them."""

    @property
    def kind(self) -> OpKind:
        """Mapper or filter."""
        ...

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document, changed or not, or the reason to drop it. Must depend on nothing else."""
        ...
