"""A linear layer with a low-rank update. Shapes: I in, O out, R rank; any leading dims."""

from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import linear_dtype, matmul_operands


def lora_linear(
    x: Tensor,
    weight_OI: Tensor,
    lora_a_RI: Tensor,
    lora_b_OR: Tensor,
    *,
    scale: float,
    bias_O: Tensor | None = None,
) -> Tensor:
    """Return x W^T + bias + scale * (x A^T) B^T.

    Shapes: x (..., I); returns (..., O).
    Dtype: that of ``x``, or autocast's; the matmuls in autocast's or the narrowest of the inputs' formats.
    Raises: ShapeError if the matrices do not fit.
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3, with scale for alpha / r.
    """
    check_matrices(x, weight_OI, lora_a_RI, lora_b_OR, bias_O)
    inputs, weight, a, b = matmul_operands(x, weight_OI, lora_a_RI, lora_b_OR)
    bias = None if bias_O is None else bias_O.to(inputs.dtype)
    update = F.linear(F.linear(inputs, a), b)
    return (F.linear(inputs, weight, bias) + scale * update).to(linear_dtype(x))


def check_matrices(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None) -> None:
    """Raise ShapeError unless the layer and its update map I to O through R."""
    num_out, num_in, rank = weight.shape[0], weight.shape[-1], a.shape[0]
    shapes_fit = (
        (weight.shape, a.shape, b.shape) == ((num_out, num_in), (rank, num_in), (num_out, rank))
        and x.shape[-1:] == (num_in,)
        and (bias is None or bias.shape == (num_out,))
    )
    if not shapes_fit:
        raise ShapeError(
            f"lora_linear: x {tuple(x.shape)}, weight {tuple(weight.shape)}, A {tuple(a.shape)}, "
            f"B {tuple(b.shape)}, bias {None if bias is None else tuple(bias.shape)} must be "
            "(..., I), (O, I), (R, I), (O, R), (O,)"
        )
