"""What is done to a command line before Hydra sees it."""

from collections.abc import Callable, Sequence

_GROUP = "hardware="


def is_override(word: str) -> bool:
    """Return whether ``word`` changes the config, rather than telling Hydra what to do."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def options_first(words: Sequence[str]) -> list[str]:
    """Put options before overrides.

    Hydra's parser takes overrides in one block only, people write them anywhere.
    """
    overrides = [word for word in words if is_override(word)]
    return [word for word in words if word not in overrides] + overrides


def resolve_auto(overrides: Sequence[str], detect: Callable[[], str]) -> list[str]:
    """Replace ``hardware=auto``, or its absence, by what ``detect`` finds.

    Sweeps such as ``hardware=auto,x`` are treated alike.
    """
    resolved: list[str] = []
    chosen = False
    for override in overrides:
        if override.startswith(_GROUP):
            chosen = True
            names = override.removeprefix(_GROUP).split(",")
            override = _GROUP + ",".join(detect() if name == "auto" else name for name in names)
        resolved.append(override)
    return resolved if chosen else [*resolved, _GROUP + detect()]
