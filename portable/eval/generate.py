"""Questions out of conversations, and a model's greedy answers to them."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from portable.core.errors import DataError
from portable.core.random import derive_seed
from portable.core.record import Conversation, Message
from portable.core.storage import explain_os_errors
from portable.engine.protocol import Engine
from portable.engine.request import Request, SamplingConfig
from portable.model.chat import render_prompt

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Question:
    """The turns up to an assistant's, and what the assistant said."""

    prompt: tuple[Message, ...]
    reference: str

    @property
    def text(self) -> str:
        """The last turn of the prompt, for people to read."""
        return self.prompt[-1].content if self.prompt else ""


def read_conversations(path: Path) -> list[Conversation]:
    """Read a file of conversations, one JSON object a line; a line without an ``id`` is called by its number.

    Raises: DataError, naming the line, if the file is missing or a line is not a conversation.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; name a conversations folder (of a synth stage) or a .jsonl file"
        )
    conversations: list[Conversation] = []
    with explain_os_errors(path, "read"), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                conversations.append(Conversation.from_json({"id": f"line-{number}", **json.loads(line)}))
            except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{path}, line {number}, is not a conversation ({error!r}); each line must be like "
                    '{"messages": [{"role": "user", "content": "..."}, '
                    '{"role": "assistant", "content": "..."}]}'
                ) from error
    return conversations


def to_questions(conversations: Sequence[Conversation]) -> list[Question]:
    """Return the question of each conversation: everything before its first assistant turn. Those without one
    are left out.
    """
    questions: list[Question] = []
    for conversation in conversations:
        roles = [message.role for message in conversation.messages]
        if "assistant" in roles:
            turn = roles.index("assistant")
            questions.append(Question(conversation.messages[:turn], conversation.messages[turn].content))
    if len(questions) < len(conversations):
        logger.warning("%d conversations have no assistant turn", len(conversations) - len(questions))
    return questions


def draw_sample(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """Return at most ``limit`` of ``items``, drawn by ``seed``, in their order."""
    if len(items) <= limit:
        return list(items)
    chosen = random.Random(derive_seed(seed, "sample")).sample(range(len(items)), limit)
    return [items[index] for index in sorted(chosen)]


def answer_questions(engine: Engine, questions: Sequence[Question], *, max_new_tokens: int) -> list[str]:
    """Return the engine's greedy answers, in order. A prompt that does not fit the model gets an empty
    answer, and the log says so.
    """
    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=0.0)
    stop = engine.tokenizer.stop_token_ids
    prompts = [tuple(render_prompt(engine.tokenizer, question.prompt)) for question in questions]
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < engine.max_seq_len]
    if len(fitting) < len(prompts):
        logger.warning(
            "%d of %d prompts are longer than the model's %d tokens and count as unanswered",
            *(len(prompts) - len(fitting), len(prompts), engine.max_seq_len),
        )
    requests = [
        Request(prompt_ids=prompts[index], sampling=sampling, stop_token_ids=stop) for index in fitting
    ]
    answers = [""] * len(prompts)
    for index, completion in zip(fitting, engine.generate(requests), strict=True):
        answers[index] = completion.text.strip()
    return answers
