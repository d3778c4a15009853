"""Bringing the simulated devices into this process: built on first use, loaded once, asked by one object."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from backends.cpu.processor import usable_cores
from backends.sim.build import EXTENSION, build
from backends.sim.module import SimModule
from portable.core.errors import BackendUnavailable

_UNNAMED = "privateuseone"  # what torch calls the device type that nobody has taken


@dataclass(frozen=True, slots=True)
class Names:
    """What a process calls its simulated devices, and how many there are; fixed by the first ``activate``."""

    type_name: str = "sim"
    communicator: str = "simccl"
    num_devices: int = 2


class Simulator:
    """The simulated devices of this process: what they refuse, and what was asked of them."""

    def __init__(self, names: Names, native: Any) -> None:  # Any: a C++ module
        self.names = names
        self._native = native

    def set_chip(self, name: str) -> None:
        """Name the imitated chip, for messages and ``get_device_name``."""
        self._native.set_chip(name)

    def set_memory_limit(self, limit_bytes: int) -> None:
        """Let each device hold ``limit_bytes``; 0 lets it hold what the host has."""
        for index in range(self.names.num_devices):
            self._native.set_memory_limit(index, limit_bytes)

    def deny_dtypes(self, dtypes: Iterable[torch.dtype]) -> None:
        """Refuse tensors of ``dtypes``; replaces what was denied before, as do the methods below."""
        self._native.deny_dtypes(list(dtypes))

    def deny_matmul_dtypes(self, dtypes: Iterable[torch.dtype]) -> None:
        """Refuse matrix products of ``dtypes``."""
        self._native.deny_matmul_dtypes(list(dtypes))

    def deny_ops(self, names: Iterable[str]) -> None:
        """Refuse operators, by name (``aten::mm``) or overload (``aten::mm.out``)."""
        self._native.deny_operators(set(names))

    def deny_collectives(
        self, collectives: Iterable[str], reduce_ops: Iterable[str], dtypes: Iterable[torch.dtype]
    ) -> None:
        """Let the communicator refuse collectives, reduce operations (torch's names, small) and formats."""
        self._native.set_communicator_mask(set(collectives), set(reduce_ops), list(dtypes))

    def set_op_table(self, names: Iterable[str], *, strict: bool = False) -> None:
        """Give the chip the operators ``names`` only; an empty table gives it all.

        All others fall back to the CPU and are counted, or are refused if ``strict``.
        """
        self._native.set_operator_table(set(names))
        self._native.set_strict(strict)

    def check_order(self, enabled: bool) -> None:
        """Detect missing waits between streams, or take everything as ordered."""
        self._native.set_order_checked(enabled)

    def fill_unwritten(self, enabled: bool) -> None:
        """Fill fresh memory with not-a-number (integers: a large pattern), or leave it as it is."""
        self._native.set_fill(enabled)

    def op_counts(self) -> dict[str, int]:
        """Return how often each operator ran on the devices since ``reset_counts``."""
        return self._native.operator_counts()

    def fallback_counts(self) -> dict[str, int]:
        """Return how often each operator that the chip lacks ran on the CPU since ``reset_counts``."""
        return self._native.fallback_counts()

    def reset_counts(self) -> None:
        """Start counting anew."""
        self._native.reset_counts()


_active: Simulator | None = None


def activate(type_name: str = "sim", communicator: str = "simccl", num_devices: int = 2) -> Simulator:
    """Make ``torch.device(type_name)`` work in this process, and ``communicator`` a backend of its groups.

    The first call compiles the native part if no process has done so before (about a minute) and loads it.
    Raises: BackendUnavailable if it cannot be compiled, or if the process has another such device already.
    """
    global _active
    names = Names(type_name, communicator, num_devices)
    if _active is not None:
        if _active.names != names:
            raise BackendUnavailable(
                f"this process simulates {_describe(_active.names)} already and cannot change to "
                f"{_describe(names)}: torch has one device type for both; start another process"
            )
        return _active
    taken = torch._C._get_privateuse1_backend_name()
    if taken != _UNNAMED:
        raise BackendUnavailable(
            f"the device type for plug-ins is '{taken}' in this process already, so '{type_name}' cannot be "
            "simulated beside it; start another process"
        )
    native = _load()
    native.set_num_devices(num_devices)
    native.set_chip(type_name)
    torch.utils.rename_privateuse1_backend(type_name)
    torch._register_device_module(type_name, SimModule(type_name, native, num_devices, usable_cores()))
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    _register(communicator, type_name, native)
    _active = Simulator(names, native)
    return _active


def _describe(names: Names) -> str:
    return f"{names.num_devices} devices '{names.type_name}' with the communicator '{names.communicator}'"


def _load() -> Any:  # Any: a C++ module
    library = build()
    loader = importlib.machinery.ExtensionFileLoader(EXTENSION, str(library))
    spec = importlib.util.spec_from_loader(EXTENSION, loader)
    if spec is None:
        raise BackendUnavailable(f"{library} is no extension module")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _register(communicator: str, type_name: str, native: Any) -> None:  # Any: a C++ module
    """Let ``init_process_group`` and ``new_group`` make groups by the communicator's name."""
    import torch.distributed as dist

    def create(options: Any, _: object) -> Any:  # Any: c10d's record of options, and a c10d backend
        transport = dist.ProcessGroupGloo(
            options.store, options.group_rank, options.group_size, timeout=options.timeout
        )
        return native.Communicator(communicator, options.group_id, transport, options.timeout)

    dist.Backend.register_backend(communicator, create, extended_api=True, devices=[type_name])
