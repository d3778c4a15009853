"""Too short to teach anything, too long to be one document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from portable.core.errors import ConfigError
from portable.core.record import Document
from portable.data.op.protocol import OpKind, Rejection


@dataclass(kw_only=True, slots=True)
class Length:
    """Keep documents of ``min_chars`` to ``max_chars`` characters and at least ``min_words`` words, bounds
    included.
    """

    kind: ClassVar[OpKind] = OpKind.filter

    min_chars: int = 50
    max_chars: int = 200_000
    min_words: int = 5

    def __post_init__(self) -> None:
        if self.min_chars > self.max_chars:
            raise ConfigError(
                f"data.ops.length.min_chars={self.min_chars} exceeds max_chars={self.max_chars}, so no "
                "document could pass; lower the first or raise the second"
            )

    def __call__(self, document: Document) -> Document | Rejection:
        """Return the document or the bound it breaks."""
        if len(document.text) < self.min_chars:
            return Rejection("too_short")
        if len(document.text) > self.max_chars:
            return Rejection("too_long")
        if len(document.text.split(None, self.min_words)) < self.min_words:
            return Rejection("too_few_words")
        return document
