"""The pass: linear layers multiply by the device's own kernel, where it has one that beats torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from portable.kernel.reference.linear import linear as reference
from portable.kernel.registry import KernelSet
from portable.parallel.blocks import named_blocks

_Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def apply_linear_kernels(part: nn.Module, kernels: KernelSet) -> list[str]:
    """Give linear layers in the blocks of ``part`` the row picked for their sizes; return their names.

    Where it is the reference, or another pass has its own product, they stay.
    """
    changed: list[str] = []
    for block_name, block in named_blocks(part):
        for name, module in block.named_modules(prefix=block_name):
            if type(module) is not nn.Linear or "forward" in vars(module):
                continue
            kernel = kernels.pick("linear", in_features=module.in_features, out_features=module.out_features)
            if kernel is not reference:
                vars(module)["forward"] = partial(_forward, module, kernel)
                changed.append(name)
    return changed


def _forward(module: nn.Linear, kernel: _Multiply, x: Tensor) -> Tensor:
    return kernel(x, module.weight, module.bias)
