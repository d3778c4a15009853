"""Tests of the Triton rows: on a GPU where there is one, else under Triton's interpreter.

What needs Triton carries the mark ``triton_interpreter``; ``ci/triton-env.sh`` runs it.
"""

import importlib.util

import pytest
import torch

from tests.backends.triton.interpreter import INTERPRETED, mend

if INTERPRETED and importlib.util.find_spec("triton"):
    mend()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device of the test's tensors; test names are the same on every one."""
    return torch.device("cpu" if INTERPRETED else "cuda")
