"""Our attention kernels under the models of ``transformers``, through its registry of attention functions.

Shapes: B rows, T tokens, N query heads, K key-value heads, H head_dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from portable.core.errors import CapabilityError
from portable.kernel.registry import KernelSet
from portable.model.attention import AttentionCore
from portable.model.hf.settings import HfSettings

NAME = "portable"
CORE = "core"  # what a layer's attention module calls its core: the seam of context parallelism
_UNKNOWN = ("softcap", "s_aux", "position_bias", "cache")  # what changes the formula, and our core lacks


def register_attention() -> None:
    """Let ``attn_implementation=NAME`` mean ``attend``.

    No mask function of that name exists, so models make no masks: bounds of segments say the same.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


# Any: what transformers hands on to attention functions, whatever the model
def attend(
    module: nn.Module,
    q_BNTH: Tensor,
    k_BKTH: Tensor,
    v_BKTH: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Return (B, T, N, H), mixed by the module's core, and no attention weights.

    A ``scaling`` other than 1 / sqrt(H) is folded into the queries, so cores need not know of it.
    Raises: CapabilityError if the model asks for another formula, or does not hand on the bounds.
    """
    core = dict(module.named_children()).get(CORE)
    kind = type(module).__name__
    others = [name for name in _UNKNOWN if given.get(name) is not None]
    if core is None:
        raise CapabilityError(f"{kind} is no causal self-attention, and only that is built in")
    if attention_mask is not None or others:
        what = "a mask of its own" if attention_mask is not None else ", ".join(others)
        raise CapabilityError(f"{kind} attends with {what}, which is not built in; use another model")
    if dropout:
        raise CapabilityError(
            f"{kind} drops attention weights at random ({dropout}), which is not built in; set the "
            "attention dropout in the folder's config.json to 0"
        )
    if "cu_seqlens" not in given:
        raise CapabilityError(
            f"the layers of this model hand no further arguments to {kind}, so it cannot keep documents "
            "apart; use another model"
        )
    if isinstance(core, AttentionCore) and core.window != sliding_window:
        raise CapabilityError(
            f"{kind} asks for a window of {sliding_window} tokens, but was set up for {core.window}"
        )
    usual = q_BNTH.shape[-1] ** -0.5
    if scaling is not None and scaling != usual:
        q_BNTH = q_BNTH * (scaling / usual)
    q_BTNH, k_BTKH, v_BTKH = (x.transpose(1, 2) for x in (q_BNTH, k_BKTH, v_BKTH))
    return core(q_BTNH, k_BTKH, v_BTKH, given["cu_seqlens"]), None


def add_cores(base: nn.Module, settings: HfSettings, kernels: KernelSet) -> list[str]:
    """Give each causal attention module a core; return the modules' names.

    By the convention of transformers such modules have a flag ``is_causal``, and may have a
    ``sliding_window`` of their own.
    """
    names: list[str] = []
    for name, module in list(base.named_modules()):
        if getattr(module, "is_causal", None) is not True:
            continue
        core = AttentionCore(
            kernels,
            head_dim=settings.head_dim,
            num_heads=settings.num_heads,
            num_kv_heads=settings.num_kv_heads,
            window=getattr(module, "sliding_window", settings.window),
        )
        module.add_module(CORE, core)
        names.append(name)
    return names
