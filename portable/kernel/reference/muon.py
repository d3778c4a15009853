"""One step of Muon, for one matrix."""

import math

import torch
from torch import Tensor

from portable.core.errors import ShapeError

# Jordan et al. 2024 chose them to lift small singular values fast, at the price of ending near 1 and not at
# it.
A, B, C = 3.4445, -4.7750, 2.0315
EPS = 1e-7


@torch.no_grad()
def muon_step(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = True,
    num_iterations: int = 5,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Update a matrix and its momentum in place by an orthogonalised step.

    M = momentum M + (1 - momentum) G;  U = momentum M + (1 - momentum) G with ``nesterov``, else M
    W = (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) newton_schulz(U)

    Shapes: all three (rows, columns).
    Dtype: the momentum in its own format; Newton-Schulz in ``dtype``, or float64 for a float64 momentum. In
    bfloat16 a last bit that differs in the gradient may become a whole unit of bfloat16 in the step.
    Bit for bit torch.optim.Muon (adjust_lr_fn "original") on the CPU where all have one 32-bit format.
    Raises: ShapeError for anything but three matrices of one shape.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, with torch's order of operations.
    """
    check_matrices(param, grad, momentum_buffer)
    gradient = grad.to(momentum_buffer.dtype)
    momentum_buffer.lerp_(gradient, 1 - momentum)
    update = gradient.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer
    update = newton_schulz(update, num_iterations, dtype)
    rows, columns = param.shape
    param.mul_(1 - lr * weight_decay)
    param.add_(update, alpha=-lr * math.sqrt(max(1, rows / max(1, columns))))


def newton_schulz(update: Tensor, num_iterations: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return a matrix with the singular vectors of ``update`` and singular values near 1 (0.7 to 1.2).

    X <- a X + (b X X^T + c (X X^T)^2) X, from X = update / |update|.

    Shapes: update (rows, columns); returns the same.
    Dtype: returns ``dtype``, in which it is computed; float64 for float64 input.
    Source: as ``muon_step``; Bernstein and Newhouse 2024, arXiv:2409.20325, section 2.2.
    """
    x = update if update.dtype == torch.float64 else update.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=EPS)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x


def check_matrices(param: Tensor, grad: Tensor, momentum_buffer: Tensor) -> None:
    """Raise ShapeError unless all three are matrices of one shape."""
    if param.ndim != 2 or grad.shape != param.shape or momentum_buffer.shape != param.shape:
        raise ShapeError(
            f"muon_step: param {tuple(param.shape)}, grad {tuple(grad.shape)} and momentum "
            f"{tuple(momentum_buffer.shape)} must be matrices of one shape; give other tensors to AdamW"
        )
