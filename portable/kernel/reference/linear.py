"""A linear layer. Shapes: I in, O out; any leading dims."""

from torch import Tensor
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.kernel.reference.precision import linear_dtype, matmul_operands


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return x W^T + bias.

    Shapes: x (..., I); returns (..., O).
    Dtype: that of ``x``, or autocast's; the matmul in autocast's or the narrowest of the inputs' formats.
    Raises: ShapeError if the matrices do not fit.
    """
    check_linear(x, weight_OI, bias_O)
    inputs, weight = matmul_operands(x, weight_OI)
    bias = None if bias_O is None else bias_O.to(inputs.dtype)
    return F.linear(inputs, weight, bias).to(linear_dtype(x))


def check_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise ShapeError unless the layer maps I to O."""
    fits = (
        weight.ndim == 2
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        raise ShapeError(
            f"linear: x {tuple(x.shape)}, weight {tuple(weight.shape)}, "
            f"bias {None if bias is None else tuple(bias.shape)} must be (..., I), (O, I), (O,)"
        )
