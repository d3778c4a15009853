"""Rows of GPUs in plain torch. Targets are text: nothing is imported until one is picked.

They stand above the rows in Triton, whose speed nobody has measured yet.
"""

from collections.abc import Mapping
from typing import Any

from portable.kernel.entry import KernelEntry

MAX_HEAD_DIM = 256  # of torch's fused attention
_PRIORITY = 25


def plain_attention(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse what ``scaled_dot_product_attention`` would compute with a mask of all pairs, or not at all."""
    if facts["window"] is not None:
        return "torch's fused attention knows no window"
    return plain_heads(facts)


def plain_heads(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse a sink, and heads that torch's fused attention does not take."""
    if facts["sink"]:
        return "torch's fused attention knows no sink"
    head_dim = facts["head_dim"]
    return f"head_dim {head_dim} > {MAX_HEAD_DIM}" if head_dim is not None and head_dim > MAX_HEAD_DIM else ""


def entries(backend: str) -> tuple[KernelEntry, ...]:
    """Return the rows for ``backend``, "cuda" or "rocm"."""
    return (
        KernelEntry(
            op="attention",
            name="sdpa",
            backend=backend,
            target="backends.torch_device.kernel.attention:attention",
            constraint=plain_attention,
            priority=_PRIORITY,
            tolerance=8.0,  # its weights are rounded to 16 bits before they meet the values
        ),
        KernelEntry(
            op="decode_attention",
            name="sdpa",
            backend=backend,
            target="backends.torch_device.kernel.attention:decode_attention",
            constraint=plain_heads,
            priority=_PRIORITY,
            differentiable=False,
            tolerance=8.0,
        ),
        KernelEntry(
            op="adamw",
            name="torch_fused",
            backend=backend,
            target="backends.cpu.kernel.adamw:adamw",
            priority=_PRIORITY,
            differentiable=False,
        ),
    )
