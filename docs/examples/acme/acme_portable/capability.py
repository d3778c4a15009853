"""What the Acme One can do, as its data sheet would say. Nothing here needs the chip."""

from __future__ import annotations

from portable.device.capability import DTYPES, Capability, Feature, Role, Support, strategy_reasons

_NATIVE, _EMULATED, _NONE = Support.native, Support.emulated, Support.none
_NO_WHEEL = "{name} has no build for the Acme One; use engine=native or engine=hf"

_FLOATS = {"fp32": _NATIVE, "bf16": _NATIVE, "fp16": _NATIVE}
_STORED = {**_FLOATS, "int64": _NATIVE, "int32": _NATIVE, "int8": _NATIVE, "bool": _NATIVE}

CAPABILITY = Capability(
    arch="acme1",
    communicator="acmeccl",
    dtypes={
        Role.storage: _STORED,  # no float64, no complex numbers, no 8-bit floats
        Role.matmul: _FLOATS,
        Role.reduce: _STORED,
        Role.collective: _STORED,
    },
    reduce_ops={
        "sum": _NATIVE,
        "max": _NATIVE,
        "min": _NATIVE,
        "mean": _EMULATED,
        "product": _EMULATED,
        "premul_sum": _EMULATED,
    },
    collectives={
        "all_reduce": _NATIVE,
        "all_gather": _NATIVE,
        "reduce_scatter": _NATIVE,
        "all_to_all": _NATIVE,
        "broadcast": _NATIVE,
        "send_recv": _NATIVE,
        "gather": _EMULATED,
        "scatter": _EMULATED,
        "coalesced": _EMULATED,
    },
    features=(Feature.pinned_memory,),
    strategies=strategy_reasons("")
    | {
        "deepspeed": "DeepSpeed has no accelerator for the Acme One",
        "accelerate": "accelerate does not know the Acme One",
    },
    engines={
        "native": "",
        "hf": "",
        "vllm": _NO_WHEEL.format(name="vLLM"),
        "lmdeploy": _NO_WHEEL.format(name="LMDeploy"),
    },
)


def lacking(role: Role) -> list[str]:
    """Return the number formats that the chip does not have in ``role``, by the names of ``DTYPES``."""
    return [name for name in DTYPES if CAPABILITY.dtype(role, name) is _NONE]
