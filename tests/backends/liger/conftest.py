"""Liger's rows run where ours in Triton do; the interpreter lacks one function that Liger takes from the
GPU."""

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
    from liger_kernel.ops import rms_norm

    from tests.backends.liger.interpreted import rsqrt

    rms_norm.rsqrt = rsqrt
    return torch.device("cpu")
