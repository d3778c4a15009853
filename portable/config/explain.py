"""Hydra's and OmegaConf's complaints, told as one paragraph with the nearest legal word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from portable.config.alias import alias_names
from portable.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^']+)'|Key '(?P<struct>[^']+)' (?:is )?not in")
_UNKNOWN_OPTION = re.compile(
    r"Could not (?:find|load) '(?P<path>[^']+)'|In '(?P<parent>[^']+)': Could not find '(?P<found>[^']+)'"
)
_OPTIONS = re.compile(r"Available options in '(?P<group>[^']+)':\n(?P<names>(?:\t.*\n?)+)")
_BAD_VALUE = re.compile(r"Error merging override (?P<override>\S+)\n(?P<why>[^\n]+)")
_MISSING = re.compile(r"missing mandatory value: (?P<key>\S+)")
_CHOICE = re.compile(r"Could not override '(?P<group>[^']+)'\.\s*No match in the defaults list")


def explain(error: Exception, known: DictConfig | None = None) -> ConfigError:
    """Return a ConfigError that says the same in our form; ``known`` holds the legal keys."""
    text = "\n".join(str(cause) for cause in _causes(error))
    keys = [*flatten_keys(known), *alias_names()] if known is not None else []
    if missing := _MISSING.search(text):
        return ConfigError(f"setting '{missing['key']}' has no default; add {missing['key']}=VALUE")
    if bad := _BAD_VALUE.search(text):
        return ConfigError(f"setting {bad['override']} has a value of the wrong kind: {_lower(bad['why'])}")
    if options := _OPTIONS.search(text):
        names = [name.strip() for name in options["names"].splitlines() if name.strip()]
        wanted = _last_path(text)
        return ConfigError(
            f"{options['group']}={wanted} does not exist.{did_you_mean(wanted, names)} "
            f"Choices: {', '.join(names)}"
        )
    if unknown := (_CHOICE.search(text) or _UNKNOWN_KEY.search(text)):
        key = next(value for value in unknown.groups() if value)
        return ConfigError(
            f"there is no setting '{key}'.{_nearest(key, keys)} "
            "See all settings with --cfg job; a new key needs a leading + ."
        )
    return ConfigError(" ".join(line.strip() for line in str(error).splitlines() if line.strip()))


def explain_null(overrides: Sequence[str], known: DictConfig) -> ConfigError:
    """Return a ConfigError for an override of something inside a part that is null, which OmegaConf asserts
    about.
    """
    from omegaconf import OmegaConf

    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        parents = key.split(".")[:-1]
        for depth in range(1, len(parents) + 1):
            parent = ".".join(parents[:depth])
            if OmegaConf.select(known, parent) is None:
                return ConfigError(
                    f"there is no '{key}' to set, for '{parent}' is null here: choose a file that has it "
                    f"(e.g. model=moe_mini), or one of your own by --config-dir"
                )
    return ConfigError(f"a setting inside a part that is null was overridden: {', '.join(overrides)}")


def flatten_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a composed config."""
    from omegaconf import DictConfig

    for key, node in config.items_ex(resolve=False):  # unresolved: a missing value must not raise here
        name = f"{prefix}{key}"
        yield name
        if isinstance(node, DictConfig) and node.keys():  # None, missing values and references have none
            yield from flatten_keys(node, f"{name}.")


def _nearest(key: str, keys: Sequence[str]) -> str:
    keys = [name for name in keys if name != key]  # an alias of what this verb does not have
    by_full = did_you_mean(key, keys)
    if by_full:
        return by_full
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [name for name in keys if name.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return did_you_mean(key, same_leaf) or f" Did you mean '{same_leaf[0]}'?"
    leaves = {name.rsplit(".", 1)[-1]: name for name in keys}
    return did_you_mean(leaf, leaves)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _last_path(text: str) -> str:
    found = [
        next(value for value in match.groups()[::-1] if value) for match in _UNKNOWN_OPTION.finditer(text)
    ]
    return found[0].rsplit("/", 1)[-1] if found else ""


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
