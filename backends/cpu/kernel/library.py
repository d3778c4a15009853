"""The kernels in C++: compiled for this processor on first use, known to torch as ``portable_cpu``.

They are operators of torch's dispatcher, so a device whose memory the host can read (the simulator) runs
them, too, with its own checks; the numbers are the CPU's bit for bit.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.cpu.processor import instruction_set
from backends.redispatch.build import build_library
from portable.core.errors import BackendUnavailable

_NATIVE = Path(__file__).parents[1] / "native"
_NAME = "portable_cpu"
_FLAGS = ("-O3", "-march=native", "-fopenmp-simd")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels compute with; the rows leave other formats to the reference."""


@cache
def load_native() -> Any:  # Any: torch's namespace of operators, which exist once loaded
    """Return ``torch.ops.portable_cpu``; compile it if no process has done so before (about ten seconds).

    Raises: BackendUnavailable if it cannot be compiled.
    """
    # Machines that share a cache may have different processors, and not run what was made for another.
    marker = f'-DPORTABLE_PROCESSOR="{instruction_set()}"'
    try:
        library = build_library(_NAME, sorted(_NATIVE.glob("*.cpp")), (*_FLAGS, marker), joined=True)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"{error}\nThe kernel rows called 'native' need it; kernel.deny=[native] goes on without them"
        ) from error
    torch.ops.load_library(str(library))
    ops = torch.ops.portable_cpu
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{_NAME}::{name}")(fake)
    return ops


def takes(*tensors: Tensor) -> bool:
    """Return whether the kernels can compute with all ``tensors``: formats are known, none is empty."""
    return all([x.dtype in FLOATS and x.numel() > 0 for x in tensors])  # noqa: C419 - a generator is slower


def wants_gradient(*tensors: Tensor) -> bool:
    """Return whether a result computed from ``tensors`` here and now must be differentiable."""
    return torch.is_grad_enabled() and any([x.requires_grad for x in tensors])  # noqa: C419 - as above


def _per_row(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], dtype=torch.float32)


# What each operator returns, for torch's tracing: shapes and formats without numbers.
_FAKES: dict[str, Any] = {  # Any: each has its own signature
    "softmax_": lambda logits, *_: _per_row(logits),
    "log_norm": lambda logits, *_: tuple(_per_row(logits) for _ in range(3)),
    "log_norm_backward": lambda logits, *_: logits.new_empty(logits.shape),
    "packed_dequantize": lambda codes, scales, zeros, like, bits, group_size: like.new_empty(
        codes.shape[0], codes.shape[1] // bits * 32
    ),
    "packed_matmul": lambda x, codes, *_: x.new_empty(x.shape[0], codes.shape[0]),
    "paged_attention": lambda q, *_: q.new_empty(q.shape),
    "rms_norm": lambda x, weight, eps, plus_one: (x.new_empty(x.shape), _per_row(x)),
    "add_rms_norm": lambda x, residual, weight, eps: (
        x.new_empty(x.shape),
        x.new_empty(x.shape),
        _per_row(x),
    ),
    "rms_norm_backward": lambda grad, x, weight, *_: (
        x.new_empty(x.shape),
        x.new_empty(x.shape[1], dtype=torch.float32),
    ),
    "swiglu": lambda gate, up: torch.empty_like(gate),
    "swiglu_backward": lambda grad, gate, up: (torch.empty_like(gate), torch.empty_like(gate)),
    "top_k_top_p": lambda logits, *_: logits.new_empty(logits.shape, dtype=torch.bool),
    "rope": lambda x, *_: x.new_empty(x.shape),
}
