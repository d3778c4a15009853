from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check

pytestmark = pytest.mark.ascend_emulation

EPS = 1e-6


def rms(x: Tensor, dims: int) -> Tensor:
    axes = tuple(range(-dims, 0))
    return (x.square().mean(axes, keepdim=True) + EPS).sqrt()


def inputs(dims: int, count: int = 1) -> list[Tensor]:
    torch.manual_seed(0)
    shape = (3, 4, 6)
    return [*(torch.randn(shape) for _ in range(count)), torch.randn(shape[-dims:])]


@pytest.mark.parametrize("dims", [1, 2])
def test_rms_norm(torch_npu: ModuleType, dims: int) -> None:
    check(
        lambda x, gamma: torch_npu.npu_rms_norm(x, gamma, EPS),
        lambda x, gamma: (x / rms(x, dims) * gamma, 1 / rms(x, dims)),
        *inputs(dims),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_in_half_precision(torch_npu: ModuleType, dtype: torch.dtype) -> None:
    check(
        lambda x, gamma: torch_npu.npu_rms_norm(x, gamma, EPS)[0],
        lambda x, gamma: x / rms(x, 1) * gamma,
        *(x.to(dtype) for x in inputs(1)),
        rtol=2e-2,
    )


def test_gemma_rms_norm(torch_npu: ModuleType) -> None:
    check(
        lambda x, gamma: torch_npu.npu_gemma_rms_norm(x, gamma, EPS),
        lambda x, gamma: (x / rms(x, 1) * (1 + gamma), 1 / rms(x, 1)),
        *inputs(1),
        gradient=False,  # torch_npu registers none
    )


def test_add_rms_norm(torch_npu: ModuleType) -> None:
    check(
        lambda a, b, gamma: torch_npu.npu_add_rms_norm(a, b, gamma, EPS),
        lambda a, b, gamma: ((a + b) / rms(a + b, 1) * gamma, 1 / rms(a + b, 1), a + b),
        *inputs(1, count=2),
        gradient=False,  # torch_npu registers none
    )


def test_add_layer_norm(torch_npu: ModuleType) -> None:
    def plain(a: Tensor, b: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        x = a + b
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return F.layer_norm(x, (6,), gamma, beta, 1e-5), mean, (variance + 1e-5).rsqrt(), x

    check(
        lambda a, b, gamma, beta: torch_npu.npu_add_layer_norm(a, b, gamma, beta, 1e-5, True),
        plain,
        *inputs(1, count=2),
        torch.randn(6),
    )


def test_gamma_of_another_shape_is_rejected(torch_npu: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="last dims"):
        torch_npu.npu_rms_norm(torch.randn(2, 4, device="npu"), torch.randn(3, device="npu"))


def test_two_number_formats_are_refused(torch_npu: ModuleType) -> None:
    x, gamma = torch.randn(2, 4, device="npu").bfloat16(), torch.randn(4, device="npu")
    for call in (torch_npu.npu_rms_norm, torch_npu.npu_gemma_rms_norm):
        with pytest.raises(RuntimeError, match="one number format"):
            call(x, gamma)
    with pytest.raises(RuntimeError, match="one number format"):
        torch_npu.npu_add_rms_norm(x, x.float(), gamma)


@pytest.mark.parametrize("shape", [(0, 4), (4, 2)])
def test_gemma_rms_norm_takes_neither_empty_nor_strided_rows(
    torch_npu: ModuleType, shape: tuple[int, int]
) -> None:
    x = torch.randn(shape, device="npu")
    x = x if x.numel() == 0 else x.T
    with pytest.raises(RuntimeError, match="not supported"):
        torch_npu.npu_gemma_rms_norm(x, torch.randn(4, device="npu"))
