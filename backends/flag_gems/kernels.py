"""Rows made of FlagGems' functions, below our own. Never run: the package asks for a GPU when it is imported.

Read in flag_gems 5.0.2. Left out, since what we need of it is missing there: rms_norm that scales by 1 + w;
rms_norm of a sum, whose function writes over its inputs and has no gradients.
"""

from collections.abc import Mapping
from typing import Any

from backends.triton.kernels import row_fits
from portable.kernel.entry import Constraint, KernelEntry


def turns_whole_heads(facts: Mapping[str, Any]) -> str:  # Any: see Op.facts
    """Refuse tables that leave some dims of a head as they are."""
    head_dim, rotary_dim = facts["head_dim"], facts["rotary_dim"]
    if head_dim is None or rotary_dim is None or head_dim == rotary_dim:
        return ""
    return f"it turns whole heads; rotary_dim {rotary_dim} is not head_dim {head_dim}"


_ROWS: tuple[tuple[str, str, str, Constraint | None], ...] = (
    ("rms_norm", "standard", "norm:rms_norm", row_fits),
    ("swiglu", "standard", "activation:swiglu", None),
    ("rope", "half", "rope:rope_half", turns_whole_heads),
    ("rope", "interleave", "rope:rope_interleave", turns_whole_heads),
)


def entries(backend: str) -> tuple[KernelEntry, ...]:
    """Return the rows for ``backend``, "cuda" or "rocm"."""
    return tuple(
        KernelEntry(
            op=op,
            variant=variant,
            name="flag_gems",
            backend=backend,
            target=f"backends.flag_gems.{target}",
            constraint=constraint,
            priority=5,
            requires=("flag_gems",),
        )
        for op, variant, target, constraint in _ROWS
    )
