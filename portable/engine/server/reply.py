"""What clients get: the shapes of OpenAI's answers and errors."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from portable.engine.request import Progress, TokenStep
from portable.engine.server.token_text import token_bytes, token_label
from portable.model.tokenizer import Tokenizer

Json = dict[str, Any]  # Any: JSON values


@dataclass(slots=True)
class Choice:
    """One completion as it comes in."""

    index: int
    text: str = ""
    steps: list[TokenStep] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)  # characters of text before each token
    finish_reason: str | None = None

    def take(self, news: Progress) -> None:
        """Add a token and its text."""
        self.offsets.append(len(self.text))
        self.steps.append(news.step)
        self.text += news.text
        self.finish_reason = news.finish_reason


@dataclass(frozen=True, slots=True)
class Reply:
    """Writes the answers to one call. ``object_name`` is text_completion or chat.completion."""

    tokenizer: Tokenizer
    model: str
    is_chat: bool
    wants_log_probs: bool
    include_usage: bool
    num_prompt_tokens: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice]) -> Json:
        """Return the answer to a call that does not stream."""
        content = [self._choice(choice) for choice in choices]
        return {**self._head("chat.completion"), "choices": content, "usage": self.usage(choices)}

    def opening(self, choice: Choice) -> Json:
        """Return the chunk that opens an assistant's turn."""
        delta = {"role": "assistant", "content": ""}
        entry = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._chunk([entry])

    def part(self, choice: Choice, news: Progress) -> Json:
        """Return the chunk of one token, which ``choice`` has already taken."""
        log_probs = self._log_probs([news.step], choice.offsets[-1:]) if self.wants_log_probs else None
        entry: Json = {"index": choice.index, "logprobs": log_probs, "finish_reason": news.finish_reason}
        if self.is_chat:
            entry["delta"] = {"content": news.text} if news.text else {}
        else:
            entry["text"] = news.text
        return self._chunk([entry])

    def closing(self, choices: Sequence[Choice]) -> Json:
        """Return the chunk with the counts of a whole stream."""
        return {**self._chunk([]), "usage": self.usage(choices)}

    def usage(self, choices: Sequence[Choice]) -> Json:
        """Return token counts; a stop token counts, a prompt counts once however many answers it gets."""
        completion = sum(len(choice.steps) for choice in choices)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.num_prompt_tokens + completion,
        }

    def _head(self, chat_object: str) -> Json:
        kind, prefix = (chat_object, "chatcmpl") if self.is_chat else ("text_completion", "cmpl")
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, entries: list[Json]) -> Json:
        usage: Json = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": entries, **usage}

    def _choice(self, choice: Choice) -> Json:
        log_probs = self._log_probs(choice.steps, choice.offsets) if self.wants_log_probs else None
        entry: Json = {
            "index": choice.index,
            "logprobs": log_probs,
            "finish_reason": choice.finish_reason,
        }
        if self.is_chat:
            entry["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
        else:
            entry["text"] = choice.text
        return entry

    def _log_probs(self, steps: Sequence[TokenStep], offsets: Sequence[int]) -> Json:
        """Return one entry for each generated token, a stop token included."""
        if self.is_chat:
            return {"content": [self._chat_log_prob(step) for step in steps], "refusal": None}
        return {
            "tokens": [token_label(self.tokenizer, step.token_id) for step in steps],
            "token_logprobs": [step.log_prob for step in steps],
            "top_logprobs": [
                {token_label(self.tokenizer, token): log_prob for token, log_prob in step.top}
                for step in steps
            ],
            "text_offset": list(offsets),
        }

    def _chat_log_prob(self, step: TokenStep) -> Json:
        top = [self._labelled(token, log_prob) for token, log_prob in step.top]
        return {**self._labelled(step.token_id, step.log_prob), "top_logprobs": top}

    def _labelled(self, token_id: int, log_prob: float) -> Json:
        raw = token_bytes(self.tokenizer, token_id)
        return {"token": token_label(self.tokenizer, token_id), "logprob": log_prob, "bytes": list(raw)}


def error_body(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> Json:
    """Return an error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_card(name: str, created: int) -> Json:
    """Return an entry of ``/v1/models``."""
    return {"id": name, "object": "model", "created": created, "owned_by": "portable"}
