from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation


def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 6, 8)


@pytest.mark.parametrize("dim", [-1, 1])
def test_swiglu(torch_npu: ModuleType, dim: int) -> None:
    def plain(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim)
        return gate / (1 + (-gate).exp()) * up

    check(lambda x: torch_npu.npu_swiglu(x, dim), plain, x())


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("approximate", [0, 1])
def test_geglu(torch_npu: ModuleType, approximate: int, left: bool) -> None:
    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, -1)
        gate, up = (first, second) if left else (second, first)
        activated = F.gelu(gate, approximate="tanh" if approximate else "none")
        return activated * up, activated

    check(lambda x: torch_npu.npu_geglu(x, -1, approximate, left), plain, x())


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(torch_npu: ModuleType, approximate: str) -> None:
    check(
        lambda x: torch_npu.npu_gelu(x, approximate=approximate),
        lambda x: F.gelu(x, approximate=approximate),
        x(),
    )


@pytest.mark.parametrize("name", ["npu_fast_gelu", "fast_gelu"])
def test_fast_gelu(torch_npu: ModuleType, name: str) -> None:
    check(getattr(torch.ops.npu, name), lambda x: x / (1 + (-1.702 * x).exp()), x())


def test_silu_and_mish(torch_npu: ModuleType) -> None:
    check(torch_npu.npu_silu, lambda x: x / (1 + (-x).exp()), x())
    check(torch_npu.npu_mish, lambda x: x * torch.tanh(torch.log1p(x.exp())), x())


@pytest.mark.parametrize("triangle", [True, False])
def test_scaled_masked_softmax(torch_npu: ModuleType, triangle: bool) -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 32, 64) > 0.7
    hidden = torch.ones(32, 64, dtype=torch.bool).triu(1) if triangle else mask
    check(
        lambda x: torch_npu.npu_scaled_masked_softmax(x, mask.npu(), 0.5, triangle),
        lambda x: (x * 0.5).masked_fill(hidden, -torch.inf).softmax(-1),
        torch.randn(2, 3, 32, 64),
    )


def test_shapes_that_the_chip_lacks_are_rejected(torch_npu: ModuleType) -> None:
    x = torch.randn(1, 1, 30, 32, device="npu")
    with pytest.raises(RuntimeError, match="multiples of 32"):
        torch_npu.npu_scaled_masked_softmax(x, x > 0)
    with pytest.raises(RuntimeError, match="even"):
        torch_npu.npu_swiglu(torch.randn(2, 3, device="npu"))
