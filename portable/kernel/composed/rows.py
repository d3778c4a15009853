"""Rows in plain torch, which fit every device. Targets are text: nothing is imported until one is picked."""

from portable.kernel.entry import ANY, KernelEntry
from portable.kernel.op import STANDARD

# Below the reference: slower on the processor that was measured, so there by name only.
_BY_NAME = -200


def _row(op: str, target: str, variant: str = STANDARD, priority: int = 0) -> KernelEntry:
    return KernelEntry(
        op=op,
        variant=variant,
        name="composed",
        backend=ANY,
        target=f"portable.kernel.composed.{target}",
        priority=priority,
    )


ENTRIES = (
    _row("cross_entropy", "cross_entropy:cross_entropy"),
    _row("cross_entropy", "cross_entropy:vocab_parallel_cross_entropy", "vocab_parallel", _BY_NAME),
    _row("gather_log_probs", "cross_entropy:gather_log_probs"),
    _row("lora_linear", "lora:lora_linear"),
    _row("moe_permute", "moe:moe_permute"),
    _row("moe_unpermute", "moe:moe_unpermute", priority=_BY_NAME),
    _row("grouped_matmul", "moe:grouped_matmul"),
    _row("packed_matmul", "quant:packed_matmul"),
    _row("nf4_dequantize", "quant:nf4_dequantize"),
)
