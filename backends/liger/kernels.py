"""Rows made of Liger's functions, below our own: for comparison, and for those who trust them more.

Left out, since a row never writes into its inputs (liger_kernel 0.8.5): swiglu and geglu, whose backward pass
writes the gradients over gate and up; cross_entropy and its fusion with the head, whose forward pass writes
the gradient over the logits; rope, which turns q and k in place. To copy the inputs first would cost what the
fusion gains.
"""

from backends.triton.kernels import row_fits
from portable.kernel.entry import KernelEntry


def entries(backend: str) -> tuple[KernelEntry, ...]:
    """Return the rows for ``backend``, "cuda" or "rocm"."""
    return tuple(
        KernelEntry(
            op="rms_norm",
            variant=variant,
            name="liger",
            backend=backend,
            target=f"backends.liger.norm:{function}",
            constraint=row_fits,
            priority=5,
            requires=("triton", "liger_kernel"),
        )
        for variant, function in (("standard", "rms_norm"), ("one_plus_w", "rms_norm_one_plus_w"))
    )
