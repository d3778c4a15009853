import pytest
import torch

from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.train.precision import forward_context
from tests.portable.train.support import make_runtime


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(Dtype.fp32, torch.float32), (Dtype.bf16, torch.bfloat16), (Dtype.fp16, torch.float16)],
)
def test_matmuls_run_in_the_compute_format(dtype: Dtype, expected: torch.dtype):
    context = forward_context(make_runtime(precision=PrecisionConfig(compute_dtype=dtype)))
    square = torch.ones(2, 2)
    for _ in range(2):  # it can be opened once a micro-batch
        with context():
            assert (square @ square).dtype is expected
    assert (square @ square).dtype is torch.float32
