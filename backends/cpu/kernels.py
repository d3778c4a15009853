"""Kernel rows of the CPU. Targets are text: nothing heavy is imported until a row is picked."""

from portable.kernel.registry import KernelEntry

ENTRIES = (
    KernelEntry(
        op="attention", name="sdpa", backend="cpu", target="backends.cpu.attention:attention", rtol=1e-5
    ),
    KernelEntry(
        op="decode_attention",
        name="sdpa",
        backend="cpu",
        target="backends.cpu.attention:decode_attention",
        rtol=1e-5,
    ),
)
