"""One entry of a pipeline schedule, written as in torch's schedule files: ``2F0`` is stage 2, forward,
micro-batch 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a stage does with a micro-batch."""

    forward = "F"
    backward = "B"  # both gradients at once
    input_gradient = "I"
    weight_gradient = "W"


@dataclass(frozen=True, slots=True)
class Action:
    """``stage`` does ``kind`` with ``micro_batch``."""

    stage: int
    kind: Kind
    micro_batch: int

    def __str__(self) -> str:
        """Return the word of schedule files."""
        return f"{self.stage}{self.kind.value}{self.micro_batch}"


_COMPUTE = re.compile(r"(\d+)([FBIW])(\d+)")
# What torch's files may say besides: transfers and shards, which the executor arranges by itself.
_ARRANGED = re.compile(r"\d+(UNSHARD|RESHARD|REDUCE_GRAD|(SEND|RECV)_[FB]\d+)")
_OVERLAPPED = re.compile(r"\((.*)\)OVERLAP_F_B")


def parse_actions(word: str) -> list[Action] | None:
    """Return the actions of one cell: none for an empty one or a transfer, two for a forward that torch
    overlaps with a backward; None if it is no such word.
    """
    word = word.strip()
    if not word or _ARRANGED.fullmatch(word):
        return []
    if found := _OVERLAPPED.fullmatch(word):
        parts = [parse_actions(part) for part in found[1].split(";")]
        return None if None in parts else [action for part in parts for action in part or ()]
    found = _COMPUTE.fullmatch(word)
    return [Action(int(found[1]), Kind(found[2]), int(found[3]))] if found else None
