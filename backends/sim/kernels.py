"""Kernel rows of the simulated accelerator: the processor computes for it, so the processor's rows fit.

They are plain torch and take the device from their operands; numbers come out bit for bit as on the CPU.
"""

from dataclasses import replace

from backends.cpu.kernels import ENTRIES as CPU_ENTRIES

ENTRIES = tuple(replace(entry, backend="sim") for entry in CPU_ENTRIES)
