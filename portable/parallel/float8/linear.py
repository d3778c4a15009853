"""The pass: linear layers of blocks multiply in 8 bits, forward and backward.

Shapes: M rows, K in, N out. Forward x Wᵀ contracts K, the gradients g W and gᵀ x contract N and M: each
product has scales of its own, along what it does not contract.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from portable.device.capability import Capability
from portable.kernel.reference.precision import linear_dtype
from portable.parallel.ability import multiplies_float8
from portable.parallel.blocks import named_blocks
from portable.parallel.config import Float8Config
from portable.parallel.float8.matmul import MULTIPLE, Matmul, by_device, in_float32
from portable.parallel.float8.quantize import OCP, Quantizer, quantizers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How values and gradients are rounded, and what multiplies them."""

    value: Quantizer
    gradient: Quantizer
    matmul: Matmul


def make_scheme(config: Float8Config, capability: Capability) -> Scheme:
    """Return what ``config`` asks for on a device."""
    native = multiplies_float8(capability) and not config.emulate
    value, gradient = quantizers(capability.fp8 or OCP, rowwise=config.recipe == "rowwise")
    return Scheme(value, gradient, by_device if native else in_float32)


def apply_float8(part: nn.Module, config: Float8Config, capability: Capability) -> list[str]:
    """Let linear layers in the blocks of ``part`` multiply in 8 bits; return their names.

    Left out are those that ``config`` excludes, and those of sizes that 8-bit matmuls do not take. Embedding
    and head are in no block; routers are no linear layers.
    """
    if config.recipe == "none":
        return []
    scheme = make_scheme(config, capability)
    chosen: list[str] = []
    for block_name, block in named_blocks(part):
        for name, module in block.named_modules(prefix=block_name):
            if type(module) is not nn.Linear or name.rpartition(".")[2] in config.exclude:
                continue
            if any(size % MULTIPLE for size in module.weight.shape):
                logger.warning(
                    "precision.float8: %s stays as it is, for its sizes %s are no multiples of %d",
                    *(name, tuple(module.weight.shape), MULTIPLE),
                )
                continue
            vars(module)["forward"] = partial(_forward, module, scheme)
            chosen.append(name)
    return chosen


def linear(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, scheme: Scheme) -> Tensor:
    """Return x Wᵀ + b for x (..., K), in the format of a linear layer here and now."""
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = _Linear.apply(rows, weight_NK, scheme, linear_dtype(x))
    out = out.view(*x.shape[:-1], -1)
    return out if bias_N is None else out + bias_N.to(out.dtype)


def _forward(module: nn.Linear, scheme: Scheme, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias, scheme)


class _Linear(torch.autograd.Function):
    """Keeps its operands as they came: the products of the backward pass need other scales."""

    # Any: the context is torch's own
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scheme: Scheme, dtype: torch.dtype) -> Tensor:
        ctx.scheme = scheme
        x = x.to(dtype)
        ctx.save_for_backward(x, weight)
        return scheme.matmul(scheme.value(x), scheme.value(weight), dtype)

    @staticmethod
    @once_differentiable  # its stub loses the parameter's name
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        scheme: Scheme = ctx.scheme
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        (grad,) = grads
        grad_x = grad_weight = None
        if needs_x:
            grad_x = scheme.matmul(scheme.gradient(grad), scheme.value(weight.t()), x.dtype)
        if needs_weight:
            grad_weight = scheme.matmul(scheme.gradient(grad.t()), scheme.value(x.t()), weight.dtype)
        return grad_x, grad_weight, None, None
