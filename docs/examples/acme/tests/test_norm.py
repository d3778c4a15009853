"""The row of the Acme One is picked, and computes what the reference does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from portable.device.backend import Backend
from portable.device.protocol import Device
from portable.kernel.entry import Kernel
from portable.kernel.reference.norm import rms_norm as reference
from portable.kernel.registry import KernelSet


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_row_is_picked_on_this_chip_only(backend: Backend, dtype: str) -> None:
    assert KernelSet(backend.name, dtype).pick("rms_norm").__module__ == "acme_portable.norm"
    assert KernelSet("cpu", dtype).pick("rms_norm").__module__ != "acme_portable.norm"


@pytest.mark.parametrize("shape", [(2, 3, 8), (5, 1), (1, 64), (0, 8)], ids=str)
def test_values_and_gradients_are_those_of_the_reference(device: Device, shape: tuple[int, ...]) -> None:
    """In float64, which only the host has, from the same numbers."""
    stream = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=stream), torch.randn(shape[-1], generator=stream)
    where = device.torch_device()
    got = run(KernelSet(device.name, "fp32").pick("rms_norm"), x.to(where), weight.to(where))
    expected = run(reference, x.double(), weight.double())
    for here, there in zip(got, expected, strict=True):
        torch.testing.assert_close(here.cpu().double(), there, rtol=1e-5, atol=1e-6)


def test_bf16_is_rounded_where_the_reference_rounds(device: Device) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    weight = torch.linspace(0.5, 2.0, 32).bfloat16()
    where = device.torch_device()
    got = KernelSet(device.name, "bf16").pick("rms_norm")(x.to(where), weight.to(where))
    assert torch.equal(got.cpu(), reference(x, weight))


def run(function: Kernel, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the result, and the gradients of a weighted sum of it."""
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = function(x, weight)
    pull = torch.linspace(-1.0, 1.0, y.numel()).to(y.device, y.dtype).reshape(y.shape)
    x_grad, weight_grad = torch.autograd.grad((y * pull).sum(), (x, weight))
    return y.detach(), x_grad, weight_grad
