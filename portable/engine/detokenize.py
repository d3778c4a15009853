"""Token ids to text, one token at a time: what is certain so far, and whether a stop string has come.

A token may end inside a character, and a stop string may begin inside one token and end inside another.
Text is therefore handed out only when no later token can change it.
"""

from collections.abc import Sequence

from portable.model.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"  # how a decoder writes bytes that are no character yet
_MAX_UNFINISHED = 3  # a UTF-8 character of four bytes lacks its end for at most three tokens
_WINDOW, _CONTEXT = (
    12,
    4,
)  # decoding starts anew often enough to be cheap, with neighbours for decoders that need them


class TextAssembler:
    """The text of one completion as it grows. ``stopped`` turns true with the first whole stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window: list[int] = []
        self._num_read = 0  # characters of the window's text that were already taken
        self._held = ""  # taken, but it may be the beginning of a stop string

    def push(self, token_id: int) -> str:
        """Add a token and return the text that became certain (often none)."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        new = text[self._num_read : _num_certain(text)]
        self._num_read += len(new)
        if len(self._window) >= _WINDOW and not text.endswith(_UNFINISHED):
            self._window = self._window[-_CONTEXT:]
            self._num_read = len(self._tokenizer.decode(self._window))
        return self._release(new)

    def finish(self) -> str:
        """Return what is left when no token follows."""
        rest = self._tokenizer.decode(self._window)[self._num_read :] if self._window else ""
        self._window, self._num_read = [], 0
        text = self._release(rest)
        held, self._held = ("" if self.stopped else self._held), ""
        return text + held

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        found = [index for index in map(self._held.find, self._stop) if index >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _num_certain(text: str) -> int:
    end = len(text)
    while end > 0 and len(text) - end < _MAX_UNFINISHED and text[end - 1] == _UNFINISHED:
        end -= 1
    return end


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop`` without completing it."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
