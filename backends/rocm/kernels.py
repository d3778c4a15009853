"""Kernel rows of AMD GPUs. Targets are text: nothing heavy is imported until a row is picked."""

from backends.flag_gems.kernels import entries as flag_gems_entries
from backends.liger.kernels import entries as liger_entries
from backends.torch_device.kernel.rows import entries as torch_entries
from backends.triton.kernels import entries as triton_entries

ENTRIES = (
    *torch_entries("rocm"),
    *triton_entries("rocm"),
    *liger_entries("rocm"),
    *flag_gems_entries("rocm"),
)
