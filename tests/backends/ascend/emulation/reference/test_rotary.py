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


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("half", (2, 3, 5, 8)),
        ("half", (1, 1, 5, 8)),
        ("half", (2, 1, 5, 8)),
        ("interleave", (1, 1, 5, 8)),  # one table for all rows and heads, or none
    ],
)
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


@pytest.mark.parametrize(
    ("shape", "table", "mode", "message"),
    [
        ((2, 3, 5, 8), (2, 1, 5, 8), "interleave", "one table for all rows"),
        ((1, 1000, 5, 8), (1, 1, 5, 8), "interleave", "fewer than 1000"),
    ],
)
def test_tables_that_neighbours_do_not_take(
    torch_npu: ModuleType, shape: tuple[int, ...], table: tuple[int, ...], mode: str, message: str
) -> None:
    cos = torch.ones(table, device="npu")
    with pytest.raises(RuntimeError, match=message):
        torch_npu.npu_rotary_mul(torch.ones(shape, device="npu"), cos, cos, mode)


def test_two_number_formats_are_refused(torch_npu: ModuleType) -> None:
    x = torch.ones(1, 2, 3, 4, device="npu")
    with pytest.raises(RuntimeError, match="one number format"):
        torch_npu.npu_rotary_mul(x.bfloat16(), x, x)
