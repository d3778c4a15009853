"""Normalisations: root mean square, with and without a residual sum, and layer norm of a sum.

Shapes: the last dims of the input are those of gamma; statistics keep the input's rank with 1 in their place.
Dtype: computed in float32; statistics and gradients of gamma and beta are float32 (torch_npu's meta kernels).
Source: Zhang and Sennrich 2019, arXiv:1910.07467; Ba et al. 2016, arXiv:1607.06450; the documentation of
torch_npu 2.13.0.
"""

from __future__ import annotations

from torch import Tensor

from backends.ascend.emulation.reference.registry import Rejected, reference


def _dims(op: str, x: Tensor, gamma: Tensor) -> tuple[int, ...]:
    if gamma.dim() == 0 or x.shape[x.dim() - gamma.dim() :] != gamma.shape:
        raise Rejected(
            f"{op}: gamma {tuple(gamma.shape)} must have the last dims of the input {tuple(x.shape)}"
        )
    return tuple(range(x.dim() - gamma.dim(), x.dim()))


def _check_formats(op: str, *tensors: Tensor) -> None:
    formats = [str(x.dtype) for x in tensors]
    if len(set(formats)) > 1:
        raise Rejected(f"{op}: the inputs must have one number format; got {', '.join(formats)}")


def _leading(x: Tensor, gamma: Tensor) -> tuple[int, ...]:
    return tuple(range(x.dim() - gamma.dim()))


@reference("npu::npu_rms_norm")
def npu_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Return input / rms * gamma, and 1 / rms."""
    _check_formats("npu_rms_norm", input, gamma)
    return _scaled(input, gamma, epsilon, "npu_rms_norm")


def _scaled(x: Tensor, gamma: Tensor, epsilon: float, op: str) -> tuple[Tensor, Tensor]:
    wide = x.float()
    rstd = (wide.square().mean(_dims(op, x, gamma), keepdim=True) + epsilon).rsqrt()
    return (wide * rstd * gamma.float()).to(x.dtype), rstd


@reference("npu::npu_rms_norm_backward")
def npu_rms_norm_backward(dy: Tensor, input: Tensor, gamma: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and gamma."""
    _check_formats("npu_rms_norm_backward", input, gamma)
    dims = _dims("npu_rms_norm_backward", input, gamma)
    normalised, gradient = input.float() * rstd, dy.float()
    d_normalised = gradient * gamma.float()
    mean = (d_normalised * normalised).mean(dims, keepdim=True)
    d_input = rstd * (d_normalised - normalised * mean)
    leading = _leading(input, gamma)
    d_gamma = gradient * normalised
    return d_input.to(input.dtype), d_gamma.sum(leading) if leading else d_gamma


@reference("npu::npu_gemma_rms_norm")
def npu_gemma_rms_norm(input: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The variant that scales by 1 + gamma."""
    op = "npu_gemma_rms_norm"
    _check_formats(op, input, gamma)
    if input.numel() == 0 or not (input.is_contiguous() and gamma.is_contiguous()):
        raise Rejected(f"{op}: empty and non-contiguous tensors are documented as not supported")
    return _scaled(input, gamma.float() + 1, epsilon, op)


@reference("npu::npu_add_rms_norm")
def npu_add_rms_norm(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm of x1 + x2, 1 / rms, and the sum."""
    _check_formats("npu_add_rms_norm", x1, x2, gamma)
    total = x1 + x2
    y, rstd = _scaled(total, gamma, epsilon, "npu_add_rms_norm")
    return y, rstd, total


@reference("npu::npu_add_layer_norm")
def npu_add_layer_norm(
    x1: Tensor,
    x2: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float = 1e-5,
    additional_output: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the layer norm of x1 + x2, mean, 1 / standard deviation, and the sum."""
    total = x1.float() + x2.float()
    dims = _dims("npu_add_layer_norm", x1, gamma)
    mean = total.mean(dims, keepdim=True)
    rstd = ((total - mean).square().mean(dims, keepdim=True) + epsilon).rsqrt()
    y = (total - mean) * rstd * gamma.float() + beta.float()
    return y.to(x1.dtype), mean, rstd, total.to(x1.dtype)


@reference("npu::npu_add_layer_norm_backward")
def npu_add_layer_norm_backward(
    dy_opt: Tensor | None,
    x1: Tensor,
    x2: Tensor,
    rstd: Tensor,
    mean: Tensor,
    gamma: Tensor,
    dsum_opt: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x1, x2 (the same), gamma, beta; ``dsum_opt`` reaches the sum directly."""
    dims, leading = _dims("npu_add_layer_norm_backward", x1, gamma), _leading(x1, gamma)
    normalised = (x1.float() + x2.float() - mean) * rstd
    gradient = normalised * 0 if dy_opt is None else dy_opt.float()
    scaled = gradient * gamma.float()
    d_x = rstd * (
        scaled - scaled.mean(dims, keepdim=True) - normalised * (scaled * normalised).mean(dims, keepdim=True)
    )
    if dsum_opt is not None:
        d_x = d_x + dsum_opt.float()
    d_gamma, d_beta = gradient * normalised, gradient
    if leading:
        d_gamma, d_beta = d_gamma.sum(leading), d_beta.sum(leading)
    return d_x.to(x1.dtype), d_x.to(x2.dtype), d_gamma, d_beta
