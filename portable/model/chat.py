"""Conversations to token ids through the tokenizer's own chat template, and which of the tokens to learn.

The template is the one the model ships with (Jinja, as everywhere in the field), rendered in a sandbox. The
learnt span of an assistant turn is found by difference: what the template adds when the turn is appended to
its prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from portable.core.errors import ConfigError
from portable.core.record import Message
from portable.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jinja2 import Template

# The template of models trained here: one special token opens a turn, one closes it, nothing in between.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
END_OF_TEXT, PAD, END_OF_TURN = "<|endoftext|>", "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, END_OF_TURN, "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """Token ids, and for each whether it is an assistant's own word (its closing token included)."""

    ids: tuple[int, ...]
    learnt: tuple[bool, ...]


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the ids of ``messages`` followed by the opening of an assistant turn."""
    return _encode(tokenizer, messages, add_generation_prompt=True)


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> RenderedChat:
    """Return the ids of a whole conversation and mark what the assistant said.

    Raises: ConfigError if the template is not prefix-stable, or if a mark would cover nothing or miss the
    stop token: both train silently wrong models.
    """
    ids = _encode(tokenizer, messages, add_generation_prompt=False)
    learnt = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message.role != "assistant":
            continue
        prompt = _encode(tokenizer, messages[:turn], add_generation_prompt=True)
        upto = _encode(tokenizer, messages[: turn + 1], add_generation_prompt=False)
        if ids[: len(upto)] != upto or upto[: len(prompt)] != prompt:
            raise ConfigError(
                f"the chat template changes earlier turns when turn {turn} is added, so the assistant's "
                "tokens cannot be told apart; use a template that only appends"
            )
        stop = [i for i in range(len(prompt), len(upto)) if upto[i] in tokenizer.stop_token_ids]
        if not stop:
            raise ConfigError(
                f"the chat template ends the assistant's turn {turn} without a stop token "
                f"(one of {tokenizer.stop_token_ids}), so a model trained on it would never stop"
            )
        learnt[len(prompt) : stop[-1] + 1] = [True] * (stop[-1] + 1 - len(prompt))
    if not any(learnt):
        raise ConfigError("the conversation has no assistant turn: there is nothing to learn from it")
    return RenderedChat(tuple(ids), tuple(learnt))


def _encode(tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    if tokenizer.chat_template is None:
        raise ConfigError(
            "the tokenizer has no chat template; fine-tune with one that has, or set tokenizer.chat_template"
        )
    template = _compile(tokenizer.chat_template)
    if not any(token in message.content for message in messages for token in tokenizer.special_tokens):
        text = _render(template, tokenizer, messages, [m.content for m in messages], add_generation_prompt)
        return tokenizer.encode(text, allow_special=True)
    # A user who types "<|end|>" must not end the turn: contents are encoded as plain text between the
    # template's parts.
    marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
    rest = _render(template, tokenizer, messages, marks, add_generation_prompt)
    ids: list[int] = []
    for mark, message in zip(marks, messages, strict=True):
        before, found, rest = rest.partition(mark)
        if not found:
            raise ConfigError(f"the chat template drops or reorders a turn of role '{message.role}'")
        ids += tokenizer.encode(before, allow_special=True) + tokenizer.encode(message.content)
    return ids + tokenizer.encode(rest, allow_special=True)


def _render(
    template: Template,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    contents: Sequence[str],
    prompt: bool,
) -> str:
    turns = [
        {"role": message.role, "content": content}
        for message, content in zip(messages, contents, strict=True)
    ]
    names: dict[str, Any] = {
        key: _token_text(tokenizer.settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")
    }
    # Templates of the field also ask for these; None means that there are none.
    names |= {"tools": None, "documents": None, "raise_exception": _raise_exception}
    with _explain_template_errors():
        return template.render(messages=turns, add_generation_prompt=prompt, **names)


def _token_text(token: Any) -> str:  # Any: older files hold {"content": ...} here
    return token["content"] if isinstance(token, dict) else (token or "")


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    with _explain_template_errors():
        return environment.from_string(source)


@contextlib.contextmanager
def _explain_template_errors() -> Generator[None, None, None]:
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:  # its syntax, an unknown name, or a step out of the sandbox
        raise ConfigError(f"the chat template fails: {error}; mend it or use another") from error


def _raise_exception(message: str) -> NoReturn:
    raise ConfigError(f"the chat template refuses the conversation: {message}")
