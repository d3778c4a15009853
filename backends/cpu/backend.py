"""The CPU, as ``portable`` finds it through the entry-point group ``portable.backends``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.cpu.processor import cpu_title, usable_cores
from backends.torch_device.settings import NO_AUTOLOAD, refuse_imitation
from portable.device.backend import Finding, Probe

if TYPE_CHECKING:
    from backends.cpu.device import CpuDevice
    from portable.collective.protocol import Group
    from portable.hardware.spec import HardwareConfig


class CpuBackend:
    """Always usable, always last in line."""

    name = "cpu"
    priority = 0
    visible_devices = ""

    def probe(self) -> Probe:
        """Report the processor; nothing needs to be installed for it."""
        found = f"{cpu_title()} with {usable_cores()} usable cores"
        return Probe(usable=True, hardware="cpu", looked_for="a processor that runs Python", found=found)

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Let waiting threads sleep instead of spin, and torch leave other devices' plug-ins alone.

        Where cores are shared, a spinning team made a training step ten times slower (2 threads beside two
        other busy processes on 2 cores); on a quiet machine it costs nothing that can be seen.
        """
        return {"OMP_WAIT_POLICY": "passive", **NO_AUTOLOAD}

    def configure(self, hardware: HardwareConfig) -> None:
        """Accept any processor, and let this process keep the memory that tensors free.

        Raises: ConfigError if it should be like another one.
        """
        refuse_imitation(hardware)
        from backends.cpu.memory import keep_freed_memory

        keep_freed_memory()

    def findings(self) -> list[Finding]:
        """Tell of threads, memory nodes, number formats and the compiler."""
        from backends.cpu.findings import cpu_findings

        return cpu_findings(self.device().capability())

    def device(self) -> CpuDevice:
        """Return the device family."""
        from backends.cpu.device import CpuDevice

        return CpuDevice()

    def group(self, timeout_s: float, *, check_calls: bool = True) -> Group:
        """Join the peers that the launcher's environment names; alone without them."""
        from portable.collective.launch import join_group

        return join_group(self.device(), timeout_s, check_calls=check_calls)
