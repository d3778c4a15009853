"""Kernel rows of the Acme One. Targets are text: nothing is imported until a row is picked."""

from dataclasses import replace

from backends.sim.kernels import ENTRIES as SIM_ENTRIES
from portable.kernel.entry import KernelEntry

ENTRIES = (
    KernelEntry(
        op="rms_norm",
        name="acme_lean",
        backend="acme",
        target="acme_portable.norm:rms_norm",
        priority=20,  # before the rows that the chip takes from the simulator
        dtypes=("fp32", "bf16"),
    ),
    # The rest is fast on the simulator that plays the chip; a real chip would bring rows of its own, or none.
    # The Acme One multiplies no integers: that op is left to the reference.
    *(replace(entry, backend="acme") for entry in SIM_ENTRIES if entry.op != "int8_matmul"),
)
