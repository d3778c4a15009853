"""Number formats: what the capability claims, works and is right; what it denies, is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import ScalingType, scaled_mm

from portable.device.capability import DTYPES, Capability, Role, Support
from portable.device.protocol import Device, Dtype

REFUSALS = (RuntimeError, TypeError)  # what torch raises for a format that a device lacks
ROWS, INNER, COLUMNS = 16, 32, 16  # scaled products want multiples of 16
FP32_EPS = torch.finfo(torch.float32).eps


class TestNumbers:
    """Every role and format: three ways to use a number, each against float64 on the host."""

    @pytest.mark.parametrize("name", DTYPES)
    def test_storage(self, device: Device, name: str) -> None:
        dtype = _torch_dtype(device.capability(), name)
        host = _values(dtype, ROWS, COLUMNS, seed=0)
        if _denied(device, Role.storage, name):
            with pytest.raises(REFUSALS):
                host.to(device.torch_device()).cpu()
            return
        there = host.to(device.torch_device())
        assert there.dtype == dtype
        assert there.device.type == device.torch_type
        assert _same(there.cpu(), host)
        assert _same(there.clone().cpu(), host)

    @pytest.mark.parametrize("name", DTYPES)
    def test_matmul(self, device: Device, name: str) -> None:
        capability = device.capability()
        dtype = _torch_dtype(capability, name)
        # The second operand of an e5m2 product is e4m3: few devices multiply two e5m2.
        second = _torch_dtype(capability, "fp8_e4m3") if name == "fp8_e5m2" else dtype
        a, b = _values(dtype, ROWS, INNER, seed=1), _values(second, INNER, COLUMNS, seed=2)
        if _denied(device, Role.matmul, name):
            with pytest.raises(REFUSALS):
                _product(a.to(device.torch_device()), b.to(device.torch_device())).cpu()
            return
        product = _product(a.to(device.torch_device()), b.to(device.torch_device())).cpu()
        exact = _exact(a) @ _exact(b)
        bound = _exact(a).abs() @ _exact(b).abs()
        _agrees(product, exact, bound * INNER)

    @pytest.mark.parametrize("name", DTYPES)
    def test_reduce(self, device: Device, name: str) -> None:
        dtype = _torch_dtype(device.capability(), name)
        x = _values(dtype, ROWS, INNER, seed=3)
        if _denied(device, Role.reduce, name):
            with pytest.raises(REFUSALS):
                x.to(device.torch_device()).sum(-1).cpu()
            return
        there = x.to(device.torch_device())
        _agrees(there.sum(-1).cpu(), _exact(x).sum(-1), _exact(x).abs().sum(-1) * INNER)
        if dtype.is_floating_point:
            weights = torch.softmax(_exact(x), -1)
            _agrees(torch.softmax(there, -1).cpu(), weights, torch.ones_like(weights))


class TestPrecision:
    """What configs may name, in the block that they ask for."""

    @pytest.mark.parametrize("dtype", list(Dtype), ids=lambda dtype: dtype.name)
    def test_autocast_sets_the_matmul_format_inside_the_block_only(
        self, device: Device, dtype: Dtype
    ) -> None:
        if _denied(device, Role.matmul, dtype.name):
            pytest.skip(f"{dtype.name} does not exist on {device.arch}; TestNumbers sees it refused")
        x = torch.ones(4, 4, device=device.torch_device(), requires_grad=True)
        with device.autocast(dtype):
            y = x @ x
            assert y.dtype == dtype.torch()
        assert (x @ x).dtype == torch.float32
        y.float().sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32
        assert x.grad.tolist() == [[8.0] * 4] * 4

    @pytest.mark.slow
    def test_compiled_code_computes_the_same(self, device: Device) -> None:
        def function(x: Tensor) -> Tensor:
            return torch.nn.functional.silu(x) * x.square().mean(-1, keepdim=True)

        x = torch.randn(8, 32, device=device.torch_device())
        torch.testing.assert_close(device.compile(function)(x), function(x))


def _denied(device: Device, role: Role, name: str) -> bool:
    return device.capability().dtype(role, name) is Support.none


def _torch_dtype(capability: Capability, name: str) -> torch.dtype:
    """Return torch's dtype of ``name``; the arch says which 8-bit format of that name it has."""
    if capability.fp8 is not None and name.startswith("fp8"):
        return getattr(torch, capability.fp8.e4m3 if name == "fp8_e4m3" else capability.fp8.e5m2)
    return getattr(torch, DTYPES[name])


def _values(dtype: torch.dtype, rows: int, columns: int, *, seed: int) -> Tensor:
    """Return values that ``dtype`` holds, made on the host; whole numbers are small enough to add up."""
    stream = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        return torch.randn(rows, columns, dtype=dtype, generator=stream)
    if dtype.is_floating_point:
        return torch.randn(rows, columns, dtype=torch.float64, generator=stream).to(dtype)
    return torch.randint(-1, 2, (rows, columns), generator=stream).to(dtype)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply; 8-bit floats as they are used, by torch's scaled product, which answers in bf16."""
    if a.dtype.itemsize > 1 or not a.dtype.is_floating_point:
        return a @ b
    one = torch.ones((), device=a.device)
    columns_first = b.t().contiguous().t()
    whole = ScalingType.TensorWise
    return scaled_mm(a, columns_first, one, whole, one, whole)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _same(got: Tensor, expected: Tensor) -> bool:
    return bool((_exact(got) == _exact(expected)).all().item())


def _agrees(got: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Whole numbers are exact; others are rounded once to their own format, on the way at worst to fp32's.

    ``bound`` is what a sum of rounding errors of size 1 could come to.
    """
    error = (_exact(got) - exact).abs()
    if not (got.is_floating_point() or got.is_complex()):
        assert error.max().item() == 0.0
        return
    own = torch.finfo(got.dtype).eps
    limit = own * exact.abs() + min(FP32_EPS, 1.0) * bound if own > FP32_EPS else own * bound
    assert bool((error <= limit).all().item()), f"off by {(error / limit).max().item():.3g} times the limit"
