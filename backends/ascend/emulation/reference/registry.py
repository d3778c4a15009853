"""The references by operator. Their parameters are those of the registered schema, by name and order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from portable.core.errors import PortableError

Function = TypeVar("Function", bound=Callable[..., Any])  # Any: every operator returns something else

REFERENCES: dict[str, Callable[..., Any]] = {}
MODULES = (
    "activation",
    "aten",
    "dropout",
    "fused_head",
    "fusion_attention",
    "infer_attention",
    "loss",
    "matmul",
    "moe",
    "norm",
    "optimizer",
    "rotary",
    "tensor",
)


def reference(*names: str) -> Callable[[Function], Function]:
    """Register the decorated function for the operators ``names``, e.g. ``npu::npu_rms_norm``."""

    def register(function: Function) -> Function:
        for name in names:
            REFERENCES[name] = function
        return function

    return register


class NotEmulated(PortableError, NotImplementedError):  # noqa: N818 - a statement, as its base is
    """The chip can do it, the emulator has no reference for it."""


class Rejected(PortableError, RuntimeError):  # noqa: N818
    """The chip refuses it, or would compute nonsense without saying so."""


def cover_only(op: str, **unset: object) -> None:
    """Raise NotEmulated if one of the arguments ``unset`` is given that the reference leaves out."""
    for name, value in unset.items():
        if value is not None and value is not False and value != "":
            raise NotEmulated(f"{op}: the emulator does not cover the argument {name}; leave it out")
