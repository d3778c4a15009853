"""Which file of ``cases`` holds the questions to an op."""

from functools import cache
from importlib import import_module

from portable.core.errors import CapabilityError
from portable.kernel.conformance.case import Case
from portable.kernel.op import OPS

_FAMILIES = {
    "norm": ("rms_norm", "layer_norm"),
    "rope": ("rope",),
    "activation": ("swiglu", "geglu"),
    "attention": ("attention",),
    "decode": ("decode_attention", "paged_attention"),
    "loss": ("token_log_probs", "gather_log_probs", "cross_entropy"),
    "linear": ("linear", "lora_linear"),
    "optimizer": ("adamw", "muon_step"),
    "moe": ("moe_gate", "moe_permute", "moe_unpermute", "grouped_matmul"),
    "quant": ("int8_matmul", "packed_matmul", "nf4_dequantize"),
    "sampling": ("top_k_top_p",),
}
_FAMILY_OF = {op: family for family, ops in _FAMILIES.items() for op in ops}


@cache
def cases_of(op_id: str) -> tuple[Case, ...]:
    """Return the cases of an op such as ``rms_norm__add``.

    Raises: CapabilityError for an op that has none.
    """
    names = {op.id: op.name for op in OPS}
    family = _FAMILY_OF.get(names.get(op_id, ""), "")
    if not family:
        raise CapabilityError(f"no cases are written for '{op_id}'; a row of it cannot be examined")
    written: tuple[Case, ...] = import_module(f"portable.kernel.conformance.cases.{family}").CASES
    return tuple(case for case in written if case.op == op_id)
