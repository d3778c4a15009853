"""The gated activations of the feed-forward layer."""

from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ShapeError


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, element by element, with silu(x) = x / (1 + exp(-x)).

    Shapes: both alike; returns the same.
    Dtype: the wider of the two; silu is rounded to that of ``gate`` first.
    Raises: ShapeError if the shapes differ.
    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    check_gate("swiglu", gate, up)
    return F.silu(gate) * up


def geglu_erf(gate: Tensor, up: Tensor) -> Tensor:
    """Return gelu(gate) * up, element by element, with gelu(x) = x (1 + erf(x / sqrt(2))) / 2.

    Shapes: both alike; returns the same.
    Dtype: the wider of the two; gelu is rounded to that of ``gate`` first.
    Raises: ShapeError if the shapes differ.
    Source: Shazeer 2020, arXiv:2002.05202, eq. 6; gelu: Hendrycks and Gimpel 2016, arXiv:1606.08415,
    section 2.
    """
    check_gate("geglu_erf", gate, up)
    return F.gelu(gate) * up


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """Return gelu(gate) * up with gelu(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    This gelu departs from that of ``geglu_erf`` by up to 5e-4: a checkpoint needs the one of its training.

    Shapes: both alike; returns the same.
    Dtype: the wider of the two; gelu is rounded to that of ``gate`` first.
    Raises: ShapeError if the shapes differ.
    Source: Shazeer 2020, arXiv:2002.05202, eq. 6; gelu: Hendrycks and Gimpel 2016, arXiv:1606.08415,
    section 2.
    """
    check_gate("geglu_tanh", gate, up)
    return F.gelu(gate, approximate="tanh") * up


def check_gate(name: str, gate: Tensor, up: Tensor) -> None:
    """Raise ShapeError unless ``gate`` and ``up`` have one shape; ``name`` is the op's."""
    if gate.shape != up.shape:
        raise ShapeError(f"{name}: gate {tuple(gate.shape)} and up {tuple(up.shape)} must have one shape")
