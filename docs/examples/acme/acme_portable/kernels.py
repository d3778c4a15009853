"""Kernel rows of the Acme One. Targets are text: nothing is imported until a row is picked."""

from portable.kernel.registry import KernelEntry

ENTRIES = (
    KernelEntry(
        op="rms_norm",
        name="acme_lean",
        backend="acme",
        target="acme_portable.norm:rms_norm",
        dtypes=("fp32", "bf16"),
    ),
)
