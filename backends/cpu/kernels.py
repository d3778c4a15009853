"""Kernel rows of the CPU. Targets are text: nothing heavy is imported until a row is picked."""

from portable.kernel.entry import KernelEntry

ENTRIES = (
    KernelEntry(
        op="attention",
        name="sdpa",
        backend="cpu",
        target="backends.cpu.attention:attention",
    ),
    KernelEntry(
        op="decode_attention",
        name="sdpa",
        backend="cpu",
        target="backends.cpu.attention:decode_attention",
    ),
    KernelEntry(
        op="token_log_probs",
        name="kept",
        backend="cpu",
        target="backends.cpu.log_prob:token_log_probs",
        dtypes=("fp32",),  # 16-bit probabilities are too coarse to keep
    ),
)
