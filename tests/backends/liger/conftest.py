"""Liger's rows run where ours in Triton do; the interpreter lacks two functions that Liger takes from
the GPU."""

import importlib.util

import pytest
import torch

from tests.backends.triton.interpreter import INTERPRETED, mend

if INTERPRETED and importlib.util.find_spec("triton"):
    mend()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device of the test's tensors, prepared for Liger."""
    if not INTERPRETED:
        return torch.device("cuda")
    from liger_kernel.ops import geglu, layer_norm, rms_norm

    from tests.backends.liger import interpreted

    rms_norm.rsqrt = layer_norm.rsqrt = interpreted.rsqrt
    geglu.tanh = interpreted.tanh
    return torch.device("cpu")
