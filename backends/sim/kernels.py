"""Kernel rows of the simulated accelerator: the processor computes for it, so the processor's rows fit.

They are plain torch, which takes the device from its operands, and C++ known to the dispatcher of torch,
which this device runs, with all its checks, like the operators of the CPU. Numbers are the same to the bit.
"""

from dataclasses import replace

from backends.cpu.kernels import ENTRIES as CPU_ENTRIES

ENTRIES = tuple(replace(entry, backend="sim") for entry in CPU_ENTRIES)
