"""Kernel rows of the NPU. Targets are text: nothing heavy is imported until a row is picked."""

from portable.kernel.entry import KernelEntry

ENTRIES = (
    KernelEntry(
        op="attention",
        name="npu_fusion",
        backend="ascend",
        target="backends.ascend.attention:attention",
    ),
)
