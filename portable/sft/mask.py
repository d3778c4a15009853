"""Conversations to token rows that know which of their targets are learnt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from portable.core.errors import DataError
from portable.core.record import Conversation
from portable.model.chat import render_chat
from portable.model.tokenizer import Tokenizer
from portable.sft.config import Overlong

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation, shifted: position t reads ``input_ids[t]`` and predicts ``target_ids[t]``, which is
    learnt where ``learnt[t]``. The three have one length.
    """

    input_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    learnt: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def to_example(tokenizer: Tokenizer, conversation: Conversation) -> Example:
    """Render a conversation with the tokenizer's chat template. Only what the assistant says is learnt, its
    closing token included. Raises: ConfigError if the template or the conversation leaves nothing to learn.
    """
    chat = render_chat(tokenizer, conversation.messages)
    return Example(chat.ids[:-1], chat.ids[1:], chat.learnt[1:])


def to_examples(
    tokenizer: Tokenizer, conversations: Sequence[Conversation], *, seq_len: int, overlong: Overlong
) -> list[Example]:
    """Render all conversations; those longer than ``seq_len`` are dropped or cut, and the log says how many.

    A conversation that keeps no learnt target after the cut is dropped too.
    Raises: DataError if nothing is left.
    """
    kept: list[Example] = []
    num_cut = num_dropped = 0
    for conversation in conversations:
        example = to_example(tokenizer, conversation)
        if len(example) > seq_len:
            shorter = _cut(example, seq_len)
            if overlong is Overlong.drop or not any(shorter.learnt):
                num_dropped += 1
                continue
            num_cut += 1
            example = shorter
        kept.append(example)
    if num_cut or num_dropped:
        logger.warning(
            "of %d conversations %d are longer than seq_len=%d: %d dropped, %d truncated (sft.overlong=%s)",
            *(len(conversations), num_cut + num_dropped, seq_len, num_dropped, num_cut, overlong.name),
        )
    if not kept:
        raise DataError(
            f"none of {len(conversations)} conversations fits sft.seq_len={seq_len}; raise it, "
            "or give shorter ones"
        )
    return kept


def _cut(example: Example, length: int) -> Example:
    return Example(example.input_ids[:length], example.target_ids[:length], example.learnt[:length])
