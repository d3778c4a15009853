"""What clients send: the bodies of OpenAI's endpoints, as far as an engine can honour them.

A setting that would be ignored is refused instead, unless its value asks for nothing.
"""

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from portable.core.errors import DataError
from portable.core.random import derive_seed
from portable.core.record import Message
from portable.engine.request import Request, SamplingConfig
from portable.model.chat import render_prompt
from portable.model.tokenizer import Tokenizer

MAX_CHOICES, MAX_STOPS, MAX_TOP = 128, 16, 20


class StreamOptions(BaseModel):
    """``include_usage`` adds a last chunk with the token counts."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = (
        False  # padding against traffic analysis: newer clients send it; there is none here
    )


class Body(BaseModel):
    """What both endpoints share."""

    model_config = ConfigDict(extra="forbid")
    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None  # not OpenAI's, but every open server has it
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None  # identifies the client's own user; nothing depends on it
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _refuse(cls, value: float | dict[str, float] | None) -> None:
        if value:
            raise ValueError("is not supported here; leave it out")

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MAX_STOPS or "" in stops:
            raise ValueError(f"takes at most {MAX_STOPS} strings, none of them empty")
        return value

    @model_validator(mode="after")
    def _check_stream_options(self) -> "Body":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options has a meaning only with stream=true")
        return self

    @property
    def num_choices(self) -> int:
        """Completions wanted for each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def make_requests(
        self, prompt: list[int], tokenizer: Tokenizer, limit: int, num_top: int
    ) -> list[Request]:
        """Return ``n`` requests for one prompt, each with a seed of its own."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        seed = secrets.randbits(63) if self.seed is None else self.seed
        return [
            Request(
                prompt_ids=tuple(prompt),
                sampling=SamplingConfig(
                    max_new_tokens=limit,
                    temperature=1.0 if self.temperature is None else self.temperature,
                    top_k=self.top_k or 0,
                    top_p=1.0 if self.top_p is None else self.top_p,
                    seed=seed if index == 0 else derive_seed(seed, "choice", index),
                ),
                stop=tuple(stops),
                stop_token_ids=tokenizer.stop_token_ids,
                num_top_log_probs=num_top,
            )
            for index in range(self.num_choices)
        ]


class CompletionBody(Body):
    """``POST /v1/completions``."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @field_validator("echo", "suffix")
    @classmethod
    def _refuse_extras(cls, value: bool | str | None) -> None:
        if value:
            raise ValueError("is not supported here; leave it out")

    @model_validator(mode="after")
    def _check_best_of(self) -> "CompletionBody":
        if self.best_of is not None and self.best_of != self.num_choices:
            raise ValueError("best_of other than n is not supported here; leave it out")
        return self

    @property
    def wants_log_probs(self) -> bool:
        """Whether answers carry log-probabilities; ``logprobs=0`` wants those of the drawn tokens only."""
        return self.logprobs is not None

    def requests(self, tokenizer: Tokenizer, max_seq_len: int) -> list[Request]:
        """Return ``n`` requests for each prompt, in order. Raises: DataError if there is no prompt."""
        limit = 16 if self.max_tokens is None else self.max_tokens  # OpenAI's own default
        requests: list[Request] = []
        for prompt in self._prompts(tokenizer):
            requests += self.make_requests(prompt, tokenizer, limit, self.logprobs or 0)
        return requests

    def _prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        prompt = self.prompt
        if not prompt:
            raise DataError("prompt is empty; send some text or token ids")
        items = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        return [
            tokenizer.encode(item)
            if isinstance(item, str)
            else [index for index in item if isinstance(index, int)]
            for item in items
            if not isinstance(item, int)
        ]


class TextPart(BaseModel):
    """A part of a message; only text is understood."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. ``developer`` is what newer clients call ``system``."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None  # tells apart speakers of one role; no template here uses it
    # A client that repeats an assistant's turn sends these three as it got them, all null.
    refusal: None = None
    audio: None = None
    annotations: None = None

    def message(self) -> Message:
        """Return the turn as the rest of the code knows it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ResponseFormat(BaseModel):
    """Only plain text can be promised."""

    type: Literal["text"]


class ChatBody(Body):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_top_log_probs(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self

    @property
    def wants_log_probs(self) -> bool:
        """Whether answers carry log-probabilities."""
        return bool(self.logprobs)

    def requests(self, tokenizer: Tokenizer, max_seq_len: int) -> list[Request]:
        """Return ``n`` requests for the conversation; without a limit, an answer may fill the context."""
        limit = self.max_completion_tokens or self.max_tokens or max_seq_len
        prompt = render_prompt(tokenizer, [message.message() for message in self.messages])
        return self.make_requests(prompt, tokenizer, limit, self.top_logprobs or 0)
