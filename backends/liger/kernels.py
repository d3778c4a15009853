"""Rows made of Liger's functions, below our own: for comparison, and for those who trust them more.

Read in liger_kernel 0.8.5. Left out: geglu by erf and interleaved rope, which it does not have; rope, whose
kernel turns q and k where they lie, so that a copy, which costs as much, would come first; cross_entropy,
whose forward pass writes the gradient over the logits, gives losses in the logits' format where ours are
float32, and reads the targets' range on the host; the fusion of head and loss, which knows no temperature.
"""

from backends.triton.kernels import row_fits
from portable.kernel.entry import KernelEntry

_ROWS = (
    ("rms_norm", "standard", "norm:rms_norm"),
    ("rms_norm", "one_plus_w", "norm:rms_norm_one_plus_w"),
    ("layer_norm", "standard", "layer_norm:layer_norm"),
    ("swiglu", "standard", "activation:swiglu"),
    ("geglu", "tanh", "activation:geglu_tanh"),
)


def entries(backend: str) -> tuple[KernelEntry, ...]:
    """Return the rows for ``backend``, "cuda" or "rocm"."""
    return tuple(
        KernelEntry(
            op=op,
            variant=variant,
            name="liger",
            backend=backend,
            target=f"backends.liger.{target}",
            constraint=row_fits,
            priority=5,
            requires=("triton", "liger_kernel"),
        )
        for op, variant, target in _ROWS
    )
