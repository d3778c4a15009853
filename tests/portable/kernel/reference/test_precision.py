import pytest
import torch

from portable.kernel.reference.precision import accumulation_dtype, without_autocast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_at_least_float32(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert accumulation_dtype(torch.zeros(1, dtype=dtype)) == expected
    assert accumulation_dtype(torch.zeros(1), torch.zeros(1, dtype=dtype)) == expected


def test_without_autocast_matmuls_keep_their_format():
    x = torch.randn(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_autocast(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_without_autocast_is_harmless_where_there_is_none():
    x = torch.zeros(2, 2, device="meta")
    with without_autocast(x):
        assert (x @ x).dtype == torch.float32
