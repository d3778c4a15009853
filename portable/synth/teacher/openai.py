"""A teacher behind any endpoint that speaks the OpenAI chat API: hosted, local, or our own."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from portable.core.errors import BackendUnavailable, ConfigError, DataError
from portable.core.random import derive_seed
from portable.core.record import Document
from portable.synth.sentence import Span, paragraphs
from portable.synth.teacher.cache import ReplyCache, request_key
from portable.synth.teacher.config import OpenAiTeacherConfig
from portable.synth.teacher.grounding import find_evidence
from portable.synth.teacher.prompt import build_messages, read_pairs
from portable.synth.teacher.protocol import Outcome, QaPair

logger = logging.getLogger(__name__)
# An endpoint that fails more often than it answers is down, or not the one that was meant.
_MIN_FAILURES_TO_STOP = 20


@dataclass(frozen=True, slots=True)
class _Reply:
    """The text of a reply, or why there is none: ``failure`` if nothing came, ``rejection`` if it is
    unusable.
    """

    text: str = ""
    failure: str = ""
    rejection: str = ""


class OpenAiTeacher:
    """Asks a model for pairs about one passage a document, and keeps what the passage bears out.

    A reply depends on its request alone, and outcomes come in document order: concurrency changes the speed
    and nothing else. Replies are cached by content; failures are not, so a rerun asks those again.
    """

    def __init__(self, config: OpenAiTeacherConfig, *, seed: int, cache_dir: Path) -> None:
        self.config = config
        self.seed = seed
        self.cache = ReplyCache(cache_dir / "teacher.sqlite")
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=_read_key(config.api_key_env),
            timeout=config.timeout_s,
            max_retries=config.retries,
        )
        self._usage: Counter[str] = Counter(calls=0, cache_hits=0, prompt_tokens=0, completion_tokens=0)
        self._lock = threading.Lock()
        self._answered = self._failed = 0

    def prepare(self, documents: Sequence[Document]) -> None:
        """Do nothing: each passage stands alone."""

    def ask(self, documents: Sequence[Document]) -> Iterator[Outcome]:
        """Yield the outcomes of all documents, in order. Raises: BackendUnavailable if the endpoint mostly
        fails.
        """
        executor = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="teacher")
        try:
            for document, (span, reply) in zip(documents, executor.map(self._reply, documents), strict=True):
                self._check_health(reply)
                yield from self._outcomes(document, span, reply)
        finally:
            executor.shutdown(cancel_futures=True)

    def usage(self) -> dict[str, int]:
        """Return calls made, cache hits, and the tokens that the endpoint counted for the calls."""
        return dict(self._usage)

    def close(self) -> None:
        """Close the connection and the cache."""
        self._client.close()
        self.cache.close()

    def _check_health(self, reply: _Reply) -> None:
        self._answered += not reply.failure
        self._failed += bool(reply.failure)
        if self._failed >= _MIN_FAILURES_TO_STOP and self._failed > self._answered:
            raise BackendUnavailable(
                f"the teacher at {self.config.base_url} failed {self._failed} of "
                f"{self._failed + self._answered} requests, the last with '{reply.failure}'; check that "
                f"it serves teacher.model={self.config.model}, or lower teacher.concurrency; what was "
                "answered is cached, and the same command continues from there"
            )

    def _reply(self, document: Document) -> tuple[Span, _Reply]:
        span = choose_passage(document, self.config.max_passage_chars, self.seed)
        request = self._request(document.text[span.start : span.end])
        key = request_key(request)
        stored = self.cache.get(key)
        if stored is not None:
            self._count(cache_hits=1)
            return span, _Reply(**stored)
        reply = self._call(request)
        if not reply.failure:
            self.cache.put(key, {"text": reply.text, "rejection": reply.rejection})
        return span, reply

    def _request(self, passage: str) -> dict[str, Any]:  # Any: the JSON of a request
        request: dict[str, Any] = {
            "model": self.config.model,
            "messages": build_messages(passage, self.config.questions_per_document),
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
            "seed": derive_seed(self.seed, "teacher") % 2**31,
        }
        if self.config.json_mode:
            request["response_format"] = {"type": "json_object"}
        return request

    def _call(self, request: dict[str, Any]) -> _Reply:  # Any: the JSON of a request
        self._count(calls=1)
        try:
            response = self._client.chat.completions.create(**request)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise BackendUnavailable(
                f"the teacher at {self.config.base_url} refuses to serve teacher.model={self.config.model}: "
                f"{error}; check the address, the model's name and the key in "
                f"${self.config.api_key_env or '(none set)'}"
            ) from error
        except openai.OpenAIError as error:
            logger.warning("a request to the teacher failed after %d retries: %s", self.config.retries, error)
            return _Reply(failure=_failure(error))
        if response.usage is not None:
            used = response.usage
            self._count(prompt_tokens=used.prompt_tokens, completion_tokens=used.completion_tokens)
        if not response.choices:
            return _Reply(rejection="no_choice")
        choice = response.choices[0]
        # A reply that was cut off or filtered is not repaired: half a JSON may parse and still be wrong.
        cut = choice.finish_reason in ("length", "content_filter")
        rejection = f"finish_{choice.finish_reason}" if cut else ""
        return _Reply(choice.message.content or "", rejection=rejection)

    def _outcomes(self, document: Document, span: Span, reply: _Reply) -> Iterator[Outcome]:
        count = self.config.questions_per_document
        reason, pairs = reply.failure or reply.rejection, []
        if not reason:
            try:
                pairs = read_pairs(reply.text)[:count]
            except DataError as error:
                reason = str(error)
        for question, answer in pairs:
            yield self._judge(document, span, question, answer)
        for _ in range(count - len(pairs)):
            yield Outcome(document.id, reason=reason or "too_few_pairs", failed=bool(reply.failure))

    def _judge(self, document: Document, span: Span, question: str, answer: str) -> Outcome:
        evidence = find_evidence(answer, document.text[span.start : span.end])
        if evidence is None or evidence.score < self.config.min_grounding:
            return Outcome(document.id, reason="not_grounded")
        start, end = span.start + evidence.span.start, span.start + evidence.span.end
        pair = QaPair(
            question, answer, document.id, start, end, rule="model", grounding=round(evidence.score, 4)
        )
        return Outcome(document.id, pair)

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._usage.update(counts)


def choose_passage(document: Document, max_chars: int, seed: int) -> Span:
    """Return what to show: the whole document, or ``max_chars`` from the start of a drawn paragraph."""
    length = len(document.text)
    if length <= max_chars:
        return Span(0, length)
    starts = [block.start for block in paragraphs(document.text) if block.start + max_chars <= length] or [0]
    start = random.Random(derive_seed(seed, "passage", document.id)).choice(starts)
    return Span(start, start + max_chars)


def _read_key(variable: str) -> str:
    if not variable:
        return "none"
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"teacher.api_key_env={variable}, but that environment variable is not set; export the key, "
            "or set teacher.api_key_env='' for an endpoint that wants none"
        )
    return key


def _failure(error: openai.OpenAIError) -> str:
    if isinstance(error, openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "connection"
    if isinstance(error, openai.APIStatusError):
        return f"http_{error.status_code}"
    return "bad_response"
