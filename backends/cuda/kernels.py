"""Kernel rows of NVIDIA GPUs. Targets are text: nothing heavy is imported until a row is picked."""

from backends.flag_gems.kernels import entries as flag_gems_entries
from backends.liger.kernels import entries as liger_entries
from backends.torch_device.kernel.rows import entries as torch_entries
from backends.triton.kernels import entries as triton_entries

ENTRIES = (
    *torch_entries("cuda"),
    *triton_entries("cuda"),
    *liger_entries("cuda"),
    *flag_gems_entries("cuda"),
)
