"""The modules of a model that repeat: its layers, the unit in which it is gathered, recomputed, compiled."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def named_blocks(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the members of every outermost list of modules."""
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from ((f"{prefix}{name}.{word}", block) for word, block in child.named_children())
        else:
            yield from named_blocks(child, f"{prefix}{name}.")
