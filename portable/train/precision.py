"""Mixed precision: which number format the forward pass computes in."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from portable.parallel.runtime import Runtime


def forward_context(runtime: Runtime) -> Callable[[], AbstractContextManager[None]]:
    """Return what opens the block that a training forward pass runs in."""
    return lambda: runtime.device.autocast(runtime.precision.compute_dtype)
