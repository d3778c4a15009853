"""One request on its way through an engine: its tokens, its text, its end."""

from collections.abc import Iterable
from collections.abc import Sequence as Items

from portable.core.errors import DataError
from portable.engine.detokenize import TextAssembler
from portable.engine.request import Completion, Progress, Request, TokenStep
from portable.model.tokenizer import Tokenizer


class PromptTooLongError(DataError):
    """A prompt leaves no room for a single token."""


class Sequence:
    """A prompt and what has been generated for it. ``finish_reason`` is None while it runs."""

    def __init__(
        self, key: int, request: Request, tokenizer: Tokenizer, max_new_tokens: int, *, watch_text: bool
    ) -> None:
        self.key = key
        self.request = request
        self.max_new_tokens = max_new_tokens
        self.steps: list[TokenStep] = []
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(request.stop_token_ids)
        # Text is followed token by token only where somebody looks at it; else it is decoded once at the end.
        self._assembler = TextAssembler(tokenizer, request.stop) if watch_text or request.stop else None
        self._texts: list[str] = []

    @property
    def num_cached(self) -> int:
        """Tokens whose keys and values are in the cache: all but the one drawn last."""
        return len(self.request.prompt_ids) + len(self.steps) - 1

    @property
    def num_needed(self) -> int:
        """Cache positions that the sequence takes at its longest."""
        return len(self.request.prompt_ids) + self.max_new_tokens

    def take(self, step: TokenStep) -> None:
        """Add a drawn token and see whether it is the last."""
        wanted = self.request.num_top_log_probs
        if len(step.top) > wanted:
            step = TokenStep(step.token_id, step.log_prob, step.top[:wanted])
        self.steps.append(step)
        text = ""
        if step.token_id in self._stop_ids:
            self.finish_reason = "stop"
        elif self._assembler is not None:
            text = self._assembler.push(step.token_id)
        if self._assembler is not None and self._assembler.stopped:
            self.finish_reason = "stop"
        elif self.finish_reason is None and len(self.steps) >= self.max_new_tokens:
            self.finish_reason = "length"
        if self._assembler is not None:
            if self.finish_reason is not None:
                text += self._assembler.finish()
                # The last characters may complete a stop string that was held back.
                self.finish_reason = "stop" if self._assembler.stopped else self.finish_reason
            self._texts.append(text)

    def end(self, finish_reason: str) -> None:
        """Finish for a reason from outside; text that was held back is let go."""
        self.finish_reason = finish_reason
        if self._assembler is not None:
            self._texts.append(self._assembler.finish())

    def progress(self) -> Progress:
        """Return the newest token with the text that it made certain."""
        return Progress(self.key, self.steps[-1], self._texts[-1] if self._texts else "", self.finish_reason)

    def completion(self) -> Completion:
        """Return the whole, once finished."""
        if self._assembler is not None:
            text = "".join(self._texts)
        else:
            text = self._tokenizer.decode(self._kept_ids())
        return Completion(tuple(self.steps), text, self.finish_reason or "length")

    def _kept_ids(self) -> Items[int]:
        ids = [step.token_id for step in self.steps]
        return ids[:-1] if ids and ids[-1] in self._stop_ids else ids


def complete(
    tokenizer: Tokenizer, request: Request, steps: Iterable[TokenStep], finish_reason: str | None = None
) -> Completion:
    """Make a completion of the tokens that a foreign engine drew: cut at the first stop token or stop string.

    ``finish_reason`` is the engine's own, for an end that the request did not ask for.
    """
    sequence = Sequence(0, request, tokenizer, request.sampling.max_new_tokens, watch_text=False)
    for step in steps:
        sequence.take(step)
        if sequence.finish_reason is not None:
            break
    if sequence.finish_reason is None:
        sequence.end(finish_reason or "length")
    return sequence.completion()


def check_fits(request: Request, max_seq_len: int, vocab_size: int) -> int:
    """Return how many tokens may follow the prompt: at least one.

    Raises: DataError if the prompt is empty, leaves no room, or holds an id that the model does not know.
    """
    prompt = request.prompt_ids
    if not prompt:
        raise DataError("the prompt is empty; give it at least one token, e.g. the end-of-text token")
    room = max_seq_len - len(prompt)
    if room < 1:
        raise PromptTooLongError(
            f"the prompt has {len(prompt)} tokens and the model reads at most {max_seq_len}, one of them to "
            f"be generated; shorten the prompt to {max_seq_len - 1} tokens or take a model with a longer "
            "max_seq_len"
        )
    bad = [index for index in prompt if not 0 <= index < vocab_size]
    if bad:
        raise DataError(
            f"the prompt holds the token id {bad[0]}, but the model knows ids 0 to {vocab_size - 1}; "
            "encode the text with this model's own tokenizer"
        )
    return room
