"""The simulated accelerator, as ``portable`` finds it through the entry-point group ``portable.backends``.

A vendor's package can build a chip of its own on it: a subclass with other names, and the chip's abilities in
``own_capability``. See ``docs/add-a-backend.md``.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from backends.sim.build import is_built
from backends.torch_device.backend import TorchBackend
from backends.torch_device.settings import NO_AUTOLOAD
from portable.core.errors import BackendUnavailable
from portable.device.backend import Finding, Level, Probe

if TYPE_CHECKING:
    from backends.sim.device import SimDevice
    from portable.device.capability import Capability
    from portable.hardware.spec import HardwareConfig

_COMPILERS = ("g++", "c++", "clang++")
_GIB = 2**30


class SimBackend(TorchBackend):
    """Simulated devices; never chosen by ``hardware=auto``, which prefers the processor itself."""

    name = "sim"
    priority = -10
    visible_devices = ""
    vendor = "portable"
    torch_type = "sim"
    transport = "simccl"
    num_devices = 2

    def probe(self) -> Probe:
        """Look for the compiler that the first use needs."""
        candidates = (os.environ.get("CXX", "").partition(" ")[0], *_COMPILERS)
        compiler = next((found for name in candidates if name and (found := shutil.which(name))), None)
        found, pays_later = compiler or "none", False
        if compiler is not None:
            try:
                pays_later = not is_built()
            except BackendUnavailable as error:  # a compiler that does not run
                compiler, found = None, str(error)
        return Probe(
            usable=compiler is not None,
            hardware=self.name,
            looked_for="a C++ compiler (CXX, or g++, c++, clang++ on PATH)",
            found=found,
            remedy="install one: apt install g++, or yum install gcc-c++",
            first_use="its native part is compiled, which takes about a minute" if pays_later else "",
        )

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Let waiting threads sleep instead of spin, and torch leave other devices' plug-ins alone."""
        return {"OMP_WAIT_POLICY": "passive", **NO_AUTOLOAD}

    def configure(self, hardware: HardwareConfig) -> None:
        """Take memory, number of devices and the chip to imitate from the hardware file."""
        self._hardware = hardware
        self._device = None

    def findings(self) -> list[Finding]:
        """Tell whether the native part can be built here."""
        probe = self.probe()
        text = f"it computes on the processor and is compiled on first use; compiler: {probe.found}"
        level = Level.good if probe.usable else Level.bad
        return [Finding(level, self.name, text, "" if probe.usable else probe.remedy)]

    def own_capability(self) -> Capability:
        """Return what the devices can do when they are told to be like nothing else."""
        from backends.sim.capability import sim_capability

        return sim_capability(arch=self.name, communicator=self.transport)

    def new_device(self) -> SimDevice:
        """Bring the devices into this process, limited as the hardware file says."""
        from backends.sim.capability import chip_capability, chip_operators, imitated
        from backends.sim.device import SimDevice
        from backends.sim.runtime import activate

        hardware = self._hardware
        like = hardware.like if hardware is not None else ""
        own = self.own_capability()
        capability = imitated(own, chip_capability(like)) if like else own
        simulator = activate(
            self.torch_type,
            self.transport,
            hardware.devices_per_node if hardware is not None else self.num_devices,
        )
        simulator.set_chip(like or self.name)
        simulator.set_op_table(chip_operators(like) if like else [])
        memory_gib = hardware.memory_gib.value if hardware is not None else None
        simulator.set_memory_limit(int((memory_gib or 0) * _GIB))
        return SimDevice(simulator, name=self.name, vendor=self.vendor, capability=capability)
