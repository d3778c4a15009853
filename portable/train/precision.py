"""Mixed precision: which number format the forward pass computes in."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.parallel.runtime import Runtime


def forward_context(runtime: Runtime) -> Callable[[], AbstractContextManager[None]]:
    """Return what opens the block that a training forward pass runs in.

    Raises: ConfigError for fp16, whose small gradients vanish without loss scaling.
    """
    compute = runtime.precision.compute_dtype
    if compute is Dtype.fp16:
        raise ConfigError(
            "precision.compute_dtype=fp16 needs loss scaling to train, which is not built in; use "
            "precision=bf16 or precision=fp32"
        )
    return lambda: runtime.device.autocast(compute)
