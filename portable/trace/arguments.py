"""The arguments and results of any function, and the tensors in them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Tree = Any  # tensors, numbers, and tuples, lists and dicts of these


def parameter_names(function: Callable[..., Tree]) -> list[str]:
    """Return the names of the parameters that may be given by place."""
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [name for name, item in inspect.signature(function).parameters.items() if item.kind in kinds]


def name_arguments(
    names: Sequence[str], args: tuple[Tree, ...], kwargs: Mapping[str, Tree]
) -> dict[str, Tree]:
    """Return all arguments by name, those given by place first; one behind the last name has its number."""
    return {**{_name(names, place): value for place, value in enumerate(args)}, **kwargs}


def split_arguments(
    arguments: Mapping[str, Tree], num_positional: int
) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
    """Return arguments as they were given: the first ``num_positional`` by place, the others by name."""
    items = list(arguments.items())
    return tuple(value for _, value in items[:num_positional]), dict(items[num_positional:])


def map_tensors(
    value: Tree,
    function: Callable[[str, Tensor], Tensor],
    path: str = "",
) -> Tree:
    """Return ``value`` with ``function(path, tensor)`` in the place of each tensor.

    It looks into tuples, lists and dicts. A path is e.g. ``rotary.0``, the first of the
    pair ``rotary``; that of a result that is one tensor is empty.
    """
    if isinstance(value, Tensor):
        return function(path, value)
    if type(value) in (tuple, list):
        return type(value)(
            map_tensors(item, function, _join(path, place)) for place, item in enumerate(value)
        )
    if isinstance(value, Mapping):
        return {key: map_tensors(item, function, _join(path, key)) for key, item in value.items()}
    return value


def tensors_in(value: Tree) -> dict[str, Tensor]:
    """Return all tensors in ``value`` by their paths."""
    found: dict[str, Tensor] = {}

    def keep(path: str, tensor: Tensor) -> Tensor:
        found[path] = tensor
        return tensor

    map_tensors(value, keep)
    return found


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if place < len(names) else str(place)
