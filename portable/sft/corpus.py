"""What SFT learns from: conversations of a synth stage or of the user, and the form of the RL task."""

from __future__ import annotations

import random
from pathlib import Path

from portable.core.artefact import open_artefact
from portable.core.errors import DataError
from portable.core.random import derive_seed
from portable.core.record import Conversation
from portable.data.task.arithmetic import ArithmeticTask
from portable.eval.generate import read_conversations

_HELDOUT_FRACTION = 0.05  # of a user's own file, which comes without a split


def read_splits(path: Path, seed: int) -> tuple[list[Conversation], list[Conversation]]:
    """Return the training and held-out conversations of a sealed folder, or of a single ``.jsonl`` file.

    A single file is split by a seeded hash of each conversation's id, so adding lines does not move the
    others.
    Raises: DataError if a split is empty.
    """
    if path.suffix == ".jsonl":
        everything = read_conversations(path)
        limit = _HELDOUT_FRACTION * 2**63
        is_heldout = [derive_seed(seed, "heldout", item.id) < limit for item in everything]
        train = [item for item, held in zip(everything, is_heldout, strict=True) if not held]
        heldout = [item for item, held in zip(everything, is_heldout, strict=True) if held]
        # A small file may have no conversation below the limit: the one with the lowest hash is held out
        # then.
        if not heldout and len(train) > 1:
            heldout = [min(train, key=lambda item: derive_seed(seed, "heldout", item.id))]
            train = [item for item in train if item is not heldout[0]]
    else:
        folder = open_artefact(path, "conversations").path / "conversations"
        train, heldout = (read_conversations(folder / f"{split}.jsonl") for split in ("train", "heldout"))
    for split, items in (("training", train), ("held-out", heldout)):
        if not items:
            raise DataError(f"{path} holds no {split} conversation; give it at least two conversations")
    return train, heldout


def arithmetic_format(num_digits: int, count: int, seed: int) -> list[Conversation]:
    """Return ``count`` sums with *random* answers of the right form; every problem is used equally often, as
    far as ``count`` goes. Each problem should have many answers, or the model learns those by heart.
    """
    task = ArithmeticTask(num_digits)
    problems = task.problems()
    rng = random.Random(derive_seed(seed, "arithmetic_format"))
    return [task.format_example(problems[index % len(problems)], rng, index) for index in range(count)]
