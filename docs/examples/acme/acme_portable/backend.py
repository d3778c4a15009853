"""The Acme One, as Portable finds it through the entry-point group ``portable.backends``.

A real chip's package would import its vendor's torch extension where this one starts the simulator, and ask
the vendor's driver where this one looks for a compiler. The rest would read the same.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from backends.torch_device.backend import TorchBackend
from portable.device.backend import Finding, Level, Probe

if TYPE_CHECKING:
    from backends.torch_device.device import TorchDevice

NUM_DEVICES = 4
GIB = 2**30


class AcmeBackend(TorchBackend):
    """Usable where the simulator can be compiled; never chosen by ``hardware=auto`` before a real device."""

    name = "acme"
    priority = -10
    visible_devices = "ACME_VISIBLE_DEVICES"
    transport = "acmeccl"

    def probe(self) -> Probe:
        """Look for what the simulator needs; the data sheet's file is the one that fits."""
        compiler = shutil.which(os.environ.get("CXX") or "g++")
        return Probe(
            usable=compiler is not None,
            hardware="acme",
            looked_for="a C++ compiler for the simulator of the Acme One (g++, or what CXX names)",
            found=compiler or "none",
            remedy="" if compiler else "apt-get install g++, or yum install gcc-c++",
        )

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Keep other devices' extensions from loading themselves into torch."""
        return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}

    def findings(self) -> list[Finding]:
        """Say that the chip is fictional, or what keeps it from being simulated."""
        probe = self.probe()
        if not probe.usable:
            return [
                Finding(Level.note, "compiler", "there is none, so nothing can be simulated", probe.remedy)
            ]
        return [Finding(Level.good, "chip", f"the Acme One is fictional; {probe.found} builds its simulator")]

    def new_device(self) -> TorchDevice:
        """Start the chip in this process and describe it."""
        import torch

        from acme_portable.capability import CAPABILITY, lacking
        from backends.sim.runtime import activate
        from backends.torch_device.device import TorchDevice
        from portable.device.capability import DTYPES, Role

        def formats(role: Role) -> list[torch.dtype]:
            return [getattr(torch, DTYPES[name]) for name in lacking(role)]

        chip = activate("acme", self.transport, NUM_DEVICES)
        chip.set_chip("Acme One")
        chip.set_memory_limit(int(self._memory_gib() * GIB))
        chip.deny_dtypes(formats(Role.storage))
        chip.deny_matmul_dtypes(formats(Role.matmul))
        chip.deny_collectives(
            {"gather", "scatter"}, {"avg", "product", "premul_sum"}, formats(Role.collective)
        )
        return TorchDevice(name=self.name, vendor="acme", torch_type="acme", capability=CAPABILITY)

    def _memory_gib(self) -> float:
        size = self._hardware.memory_gib.value if self._hardware is not None else None
        return 4.0 if size is None else size
