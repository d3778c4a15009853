"""A runtime for a test is the one that a job would get."""

import pytest

from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.testing.runtime import make_runtime


@pytest.mark.parametrize("strategy", ["single", "ddp"])  # on one process ddp has nothing to do
def test_one_process_trains_alone_in_float32(strategy: str) -> None:
    runtime = make_runtime("cpu", strategy)
    assert (runtime.strategy, runtime.group.size) == ("single", 1)
    assert (runtime.device.name, runtime.kernels.dtype) == ("cpu", "fp32")


def test_precision_reaches_the_kernels() -> None:
    runtime = make_runtime(precision=PrecisionConfig(compute_dtype=Dtype.bf16))
    assert runtime.kernels.dtype == "bf16"
