"""The CPU, as ``portable`` finds it through the entry-point group ``portable.backends``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from backends.cpu.processor import COMMUNICATOR, cpu_title, usable_cores
from portable.device.protocol import Probe

if TYPE_CHECKING:
    from backends.cpu.device import CpuDevice
    from portable.collective.protocol import Group


class CpuBackend:
    """Always usable, always last in line."""

    name = "cpu"
    priority = 0

    def probe(self) -> Probe:
        """Report the processor; nothing needs to be installed for it."""
        found = f"{cpu_title()} with {usable_cores()} usable cores"
        return Probe(usable=True, hardware="cpu", looked_for="a processor that runs Python", found=found)

    def environment(self) -> dict[str, str]:
        """Let waiting threads sleep instead of spin.

        Where cores are shared, a spinning team made a training step ten times slower (2 threads beside two
        other busy processes on 2 cores); on a quiet machine it costs nothing that can be seen.
        """
        return {"OMP_WAIT_POLICY": "passive"}

    def device(self) -> CpuDevice:
        """Return the device family."""
        from backends.cpu.device import CpuDevice

        return CpuDevice()

    def group(self, timeout_s: float) -> Group:
        """Join the peers named by WORLD_SIZE and its fellows; alone without them."""
        if os.environ.get("WORLD_SIZE", "1") == "1":
            from portable.collective.local import LocalGroup

            return LocalGroup()
        from portable.collective.launch import join_group

        return join_group(COMMUNICATOR, timeout_s)
