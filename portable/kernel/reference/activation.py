"""The gated activation of the feed-forward layer."""

from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ShapeError


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, element by element, with silu(x) = x / (1 + exp(-x)).

    Shapes: both alike; returns the same.
    Raises: ShapeError if they differ.
    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    if gate.shape != up.shape:
        raise ShapeError(f"swiglu: gate {tuple(gate.shape)} and up {tuple(up.shape)} must have one shape")
    return F.silu(gate) * up
