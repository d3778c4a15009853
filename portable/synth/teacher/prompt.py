"""What is asked of a model, and how its reply is read."""

from __future__ import annotations

import json
import re
from typing import Any

from portable.core.errors import DataError

SYSTEM = (
    "You write exam questions for technical documentation. You get one passage. Every question must be "
    "understood without seeing the passage, so name the thing it is about. Every answer must be copied word "
    "for word from the passage: one phrase or one sentence, as short as it can be while answering fully. "
    "Use the language of the passage. "
    'Reply with JSON only, of this form: {"pairs": [{"question": "...", "answer": "..."}]}'
)
_USER = "Write {count} different question-answer pair(s) about this passage.\n\nPassage:\n{passage}"
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)


def build_messages(passage: str, count: int) -> list[dict[str, str]]:
    """Return the chat messages that ask for ``count`` pairs about ``passage``."""
    user = _USER.format(count=count, passage=passage)
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]


def read_pairs(reply: str) -> list[tuple[str, str]]:
    """Return the (question, answer) pairs of a reply; text around the JSON object is ignored.

    Raises: DataError, with the reason code as its message, if there is no such JSON.
    """
    body = _THINKING.sub("", reply)
    start, end = body.find("{"), body.rfind("}")
    if start < 0 or end < start:
        raise DataError("no_json")
    try:
        content = json.loads(body[start : end + 1])
    except json.JSONDecodeError as error:
        raise DataError("broken_json") from error
    items = content.get("pairs")
    if not isinstance(items, list):
        raise DataError("wrong_schema")
    return [_read_pair(item) for item in items]


def _read_pair(item: Any) -> tuple[str, str]:  # Any: whatever JSON the model wrote
    if not isinstance(item, dict):
        raise DataError("wrong_schema")
    question, answer = item.get("question"), item.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        raise DataError("wrong_schema")
    return question.strip(), answer.strip()
