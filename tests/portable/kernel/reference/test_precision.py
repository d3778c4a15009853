import pytest
import torch

from portable.kernel.reference.precision import accumulation_dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_at_least_float32(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert accumulation_dtype(torch.zeros(1, dtype=dtype)) == expected
