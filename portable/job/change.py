"""What may differ between a run and its continuation: where and how it computes, not what."""

from __future__ import annotations

from typing import Any

import yaml

# A checkpoint is read in any layout; these say how a step is computed and not which step it is.
_MAY_CHANGE = (
    "hardware",
    "sim",
    "strategy",
    "parallel",
    "communicator",
    "launcher",
    "kernel",
    "engine",
    "micro_batch_size",
    "prefetch_batches",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint",
    "rollback",
    "metrics",
    "output_dir",
)


def changed_settings(before: str, after: str) -> list[str]:
    """Return the dotted names of the settings in which two configs (YAML) differ."""
    return sorted(_differences(yaml.safe_load(before), yaml.safe_load(after), ""))


def may_change(name: str) -> bool:
    """Return whether a run may be continued with another value of a setting."""
    return name.split(".", 1)[0] in _MAY_CHANGE


def _differences(before: Any, after: Any, path: str) -> set[str]:  # Any: YAML values
    if isinstance(before, dict) and isinstance(after, dict):
        found: set[str] = set()
        for key in before.keys() | after.keys():
            inner = f"{path}.{key}" if path else str(key)
            found |= _differences(before.get(key), after.get(key), inner)
        return found
    return set() if before == after else {path}
