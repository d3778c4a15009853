"""The words of the rules, and patterns made of them.

``conf/lint/word/*.yaml`` holds lists of words. In a rule ``"torch.{device_type}"`` stands for one text for
each word of the list ``device_type``; ``*`` stands for any characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from portable.core.errors import ConfigError, did_you_mean

Words = Mapping[str, tuple[str, ...]]
_HOLE = re.compile(r"\{(\w+)\}")


def expand(text: str, words: Words) -> list[str]:
    """Return each text that ``text`` stands for.

    Raises: ConfigError if a list of words is unknown.
    """
    hole = _HOLE.search(text)
    if hole is None:
        return [text]
    name = hole.group(1)
    if name not in words:
        raise ConfigError(f"lint: there is no list of words '{name}'.{did_you_mean(name, words)}")
    before, after = text[: hole.start()], text[hole.end() :]
    return [filled for word in words[name] for filled in expand(before + word + after, words)]


class Patterns:
    """Some patterns. The one that spells out most of a text decides how much a match weighs.

    Among dotted names ``*`` does not cross a dot, and "a.b" fits "a.b" and all below it, such as "a.b.c".
    """

    def __init__(self, patterns: Iterable[str], words: Words, *, dotted: bool = False) -> None:
        weighed = {text: _weight(pattern) for pattern in patterns for text in expand(pattern, words)}
        ordered = sorted(weighed, key=lambda text: -weighed[text])
        self._weights = [weighed[text] for text in ordered]
        some, tail = ("[^.]*", r"(?:\..*)?") if dotted else (".*", "")
        groups = "|".join(f"({some.join(map(re.escape, text.split('*')))}{tail})" for text in ordered)
        self._regex = re.compile(groups or "(?!)", re.DOTALL)
        self._seen: dict[str, int] = {}

    def weight(self, text: str) -> int:
        """Return how many characters the pattern that fits ``text`` spells out; 0 if none fits."""
        if text not in self._seen:
            found = self._regex.fullmatch(text)
            self._seen[text] = self._weights[(found.lastindex or 1) - 1] if found else 0
        return self._seen[text]


def _weight(pattern: str) -> int:
    return max(1, len(_HOLE.sub("", pattern).replace("*", "")))
