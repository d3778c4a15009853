"""The kinds of check by name, as the YAML files use them, and how one is made from a file's entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from portable.core.errors import ConfigError, did_you_mean
from portable.lint.check.call import CallCheck, MethodCheck
from portable.lint.check.comparison import AttributeCheck, ComparisonCheck
from portable.lint.check.dtype import DtypeCheck
from portable.lint.check.environment import EnvironmentCheck
from portable.lint.check.imported import ImportCheck
from portable.lint.check.literal import LiteralCheck
from portable.lint.check.match import Check
from portable.lint.check.reference import ReferenceCheck
from portable.lint.vocabulary import Patterns, Words, expand

KINDS: dict[str, type[Any]] = {  # Any: each has its own fields
    "attribute": AttributeCheck,
    "call": CallCheck,
    "comparison": ComparisonCheck,
    "dtype": DtypeCheck,
    "environment": EnvironmentCheck,
    "import": ImportCheck,
    "literal": LiteralCheck,
    "method": MethodCheck,
    "reference": ReferenceCheck,
}


def make_check(entry: Mapping[str, Any], words: Words) -> Check:
    """Return the check that ``entry`` of a YAML file describes: its ``kind``, and that kind's fields.

    Raises: ConfigError if the kind or a field is unknown, or a field is missing.
    """
    given = dict(entry)
    kind = str(given.pop("kind", ""))
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of check '{kind}'.{did_you_mean(kind, KINDS)}")
    fields = {field.name: field for field in dataclasses.fields(KINDS[kind])}
    for name in given:
        if name not in fields:
            raise ConfigError(f"a check of kind {kind} has no '{name}'.{did_you_mean(name, fields)}")
    try:
        return KINDS[kind](**{name: _value(fields[name], value, words) for name, value in given.items()})
    except TypeError as error:
        raise ConfigError(f"a check of kind {kind}: {error}") from error


def _value(field: dataclasses.Field[Any], value: Any, words: Words) -> Any:
    """Turn lists of texts into what the field holds: patterns, or the texts filled with words."""
    if not isinstance(value, list):
        return value
    texts = [str(item) for item in value]
    if "Patterns" in str(field.type):
        return Patterns(texts, words, dotted=bool(field.metadata.get("dotted")))
    return tuple(filled for text in texts for filled in expand(text, words))
