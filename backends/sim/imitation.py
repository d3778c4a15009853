"""From a capability to what the simulated devices refuse."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from backends.sim.runtime import Simulator
from portable.device.capability import DTYPES, Capability, Role, Support

# Our names of reductions and collectives, with those of torch.
_REDUCE_OPS = {
    "sum": "sum",
    "mean": "avg",
    "max": "max",
    "min": "min",
    "product": "product",
    "premul_sum": "premul_sum",
}
_BITWISE = ("band", "bor", "bxor")  # no capability lists them: shared code does not use them
_COLLECTIVES = {"send_recv": ("send", "recv"), "coalesced": ("coalescing",)}


def imitate(simulator: Simulator, capability: Capability) -> None:
    """Let the devices refuse what ``capability`` says is not there, and the communicator what is not native.

    What a capability calls emulated is the work of the layer above (the communicator refuses an average, the
    collective layer builds it from a sum), so the simulator must not do it by itself.
    """
    storable = set(_dtypes(capability, Role.storage, (Support.native, Support.emulated)))
    absent = set(_all_dtypes(capability)) - storable
    if absent & {torch.float64, torch.complex64}:
        absent.add(torch.complex128)
    simulator.deny_dtypes(absent)
    multiplied = set(_dtypes(capability, Role.matmul, (Support.native, Support.emulated)))
    simulator.deny_matmul_dtypes(storable - multiplied)
    carried = set(_dtypes(capability, Role.collective, (Support.native,)))
    simulator.deny_collectives(
        _missing_collectives(capability),
        {*_missing_reductions(capability), *_BITWISE},
        set(_all_dtypes(capability)) - carried,
    )


def _missing_reductions(capability: Capability) -> Iterable[str]:
    return (
        name for ours, name in _REDUCE_OPS.items() if capability.reduce_ops.get(ours) is not Support.native
    )


def _missing_collectives(capability: Capability) -> set[str]:
    names = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "gather", "scatter")
    table = {**{name: (name,) for name in names}, **_COLLECTIVES}
    return {
        torch_name
        for ours, torch_names in table.items()
        if capability.collectives.get(ours) is not Support.native
        for torch_name in torch_names
    }


def _dtypes(capability: Capability, role: Role, supports: tuple[Support, ...]) -> Iterable[torch.dtype]:
    return (_dtype(capability, name) for name in DTYPES if capability.dtype(role, name) in supports)


def _all_dtypes(capability: Capability) -> Iterable[torch.dtype]:
    return (_dtype(capability, name) for name in DTYPES)


def _dtype(capability: Capability, name: str) -> torch.dtype:
    """Return torch's type for our name; which 8-bit floats are meant depends on the arch."""
    eights = {"fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2"}
    if capability.fp8 is not None and name in eights:
        return getattr(torch, getattr(capability.fp8, eights[name]))
    return getattr(torch, DTYPES[name])
