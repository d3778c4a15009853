from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check, close

pytestmark = pytest.mark.ascend_emulation


def rotated(x: Tensor, mode: str) -> Tensor:
    """By the matrix of the rotation, pair by pair."""
    size = x.shape[-1]
    matrix = torch.zeros(size, size, dtype=x.dtype)
    pairs = (
        [(i, i + size // 2) for i in range(size // 2)]
        if mode == "half"
        else [(i, i + 1) for i in range(0, size, 2)]
    )
    for first, second in pairs:
        matrix[second, first] = -1
        matrix[first, second] = 1
    return x @ matrix


@pytest.mark.parametrize("mode", ["half", "interleave"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 5, 8), (2, 1, 5, 8)])
def test_rotary_mul(torch_npu: ModuleType, shape: tuple[int, ...], mode: str) -> None:
    torch.manual_seed(0)
    check(
        lambda x, cos, sin: torch_npu.npu_rotary_mul(x, cos, sin, mode),
        lambda x, cos, sin: x * cos + rotated(x, mode) * sin,
        torch.randn(2, 3, 5, 8),
        torch.randn(shape),
        torch.randn(shape),
    )


def test_a_matrix_replaces_the_rotation(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    x, cos, sin, matrix = (
        torch.randn(1, 2, 3, 4),
        torch.randn(1, 2, 3, 4),
        torch.randn(1, 2, 3, 4),
        torch.randn(4, 4),
    )
    check(
        lambda *inputs: torch_npu.npu_rotary_mul(*inputs[:3], "half", inputs[3]),
        lambda x, cos, sin, rotate: x * cos + x @ rotate * sin,
        x,
        cos,
        sin,
        matrix,
        gradient=False,
    )


def test_apply_rotary_pos_emb_works_in_place(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 4, 64), torch.randn(2, 3, 1, 64)
    cos, sin = torch.randn(2, 3, 1, 64), torch.randn(2, 3, 1, 64)
    q, k = query.npu(), key.npu()
    outputs = torch_npu.npu_apply_rotary_pos_emb(q, k, cos.npu(), sin.npu())
    for out, given, x in zip(outputs, (q, k), (query, key), strict=True):
        close(out, x.double() * cos + rotated(x.double(), "half") * sin, 1e-6, "rotated")
        assert torch.equal(out, given)


def test_odd_head_dims_are_rejected(torch_npu: ModuleType) -> None:
    x = torch.randn(1, 1, 2, 5, device="npu")
    with pytest.raises(RuntimeError, match="head_dim 5"):
        torch_npu.npu_rotary_mul(x, x, x)
