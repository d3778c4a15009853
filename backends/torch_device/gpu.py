"""Tables that hold on the GPUs of several makers, since the same code of torch drives them."""

from portable.device.capability import DTYPES, Feature, Role, Support

_NATIVE, _EMULATED, _NONE = Support.native, Support.emulated, Support.none

FEATURES = (
    Feature.async_copy,
    Feature.pinned_memory,
    Feature.graph_capture,
    Feature.ipc,
    Feature.real_time,
)

# torch's process group of these makers offers all; averages and pre-scaled sums are the library's own.
REDUCE_OPS = dict.fromkeys(("sum", "mean", "max", "min", "product", "premul_sum"), _NATIVE)
COLLECTIVES = dict.fromkeys(
    (
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "broadcast",
        "gather",
        "scatter",
        "send_recv",
    ),
    _NATIVE,
)


def gpu_dtypes(*, bf16: Support, fp8: Support, fp8_collective: Support) -> dict[Role, dict[str, Support]]:
    """Return the formats by role; ``fp8`` is for matmuls.

    torch multiplies 8-bit floats by its scaled product; it has no GPU matmul of integers (that of int8,
    ``torch._int_mm``, is an entry of its own), and no sum of 8-bit floats. Complex numbers travel as pairs of
    real ones.
    """
    eights = ("fp8_e4m3", "fp8_e5m2")
    return {
        Role.storage: dict.fromkeys(DTYPES, _NATIVE),
        Role.matmul: {
            **dict.fromkeys(DTYPES, _NATIVE),
            "bf16": bf16,
            **dict.fromkeys(eights, fp8),
            **dict.fromkeys(("int64", "int32", "int8", "bool"), _NONE),
        },
        Role.reduce: {**dict.fromkeys(DTYPES, _NATIVE), **dict.fromkeys(eights, _NONE)},
        Role.collective: {**dict.fromkeys(DTYPES, _NATIVE), **dict.fromkeys(eights, fp8_collective)},
    }
