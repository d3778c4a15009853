"""The simulated accelerator as a device: torch's module of it, as every other device's."""

from __future__ import annotations

from backends.sim.imitation import imitate
from backends.sim.runtime import Simulator
from backends.torch_device.device import TorchDevice
from portable.device.capability import Capability


class SimDevice(TorchDevice):
    """The simulated devices of this process; ``simulator`` tells what was asked of them."""

    def __init__(self, simulator: Simulator, *, name: str, vendor: str, capability: Capability) -> None:
        super().__init__(
            name=name, vendor=vendor, torch_type=simulator.names.type_name, capability=capability
        )
        self.simulator = simulator
        imitate(simulator, capability)
