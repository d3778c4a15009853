"""How many documents each step let through, what it dropped and why, with samples."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import xxhash

from portable.core.record import Document

_SAMPLE_CHARS = 400


@dataclass(slots=True)
class StepCount:
    """Sums of one step over some documents; bytes are UTF-8, time is summed over processes."""

    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    time_s: float = 0.0

    def add(self, other: StepCount) -> None:
        """Add another sum."""
        self.documents_in += other.documents_in
        self.documents_out += other.documents_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.time_s += other.time_s


@dataclass(slots=True)
class FunnelStep:
    """One step. ``kind`` is read, split, mapper, filter or dedup."""

    op: str
    kind: str
    num_samples: int
    count: StepCount = field(default_factory=StepCount)
    dropped: Counter[str] = field(default_factory=Counter)
    _samples: list[tuple[int, str, str, str]] = field(default_factory=list)

    def drop(self, document: Document, reason: str) -> None:
        """Count a dropped document; it may become a sample."""
        self.dropped[reason] += 1
        self.sample(document.id, document.text, reason)

    def sample(self, name: str, text: str, reason: str) -> None:
        """Keep a sample if the hash of its id is among the smallest: a fair choice that does not depend on
        order.
        """
        rank = -xxhash.xxh64_intdigest(f"{name}\n{reason}".encode("utf-8", "surrogatepass"))
        heapq.heappush(self._samples, (rank, name, text[:_SAMPLE_CHARS], reason))
        if len(self._samples) > self.num_samples:
            heapq.heappop(self._samples)

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the step as ``funnel.json`` holds it."""
        samples = [
            {"id": name, "text": text, "reason": reason} for _, name, text, reason in sorted(self._samples)
        ]
        return {
            "op": self.op,
            "kind": self.kind,
            "documents_in": self.count.documents_in,
            "documents_out": self.count.documents_out,
            "bytes_in": self.count.bytes_in,
            "bytes_out": self.count.bytes_out,
            "time_s": round(self.count.time_s, 3),
            "dropped": dict(sorted(self.dropped.items())),
            "samples": samples,
        }
