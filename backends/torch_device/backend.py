"""A backend whose devices torch drives by a module: what does not depend on the vendor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from backends.torch_device.settings import refuse_imitation
from portable.core.errors import BackendUnavailable, ConfigError
from portable.device.backend import Probe

if TYPE_CHECKING:
    from backends.torch_device.device import TorchDevice
    from portable.collective.protocol import Group
    from portable.hardware.spec import HardwareConfig


class TorchBackend(ABC):
    """Keeps the chosen hardware, makes the device once, and joins groups with it."""

    name: str
    transport: str  # torch's name of the communicator
    _hardware: HardwareConfig | None = None
    _device: TorchDevice | None = None

    @abstractmethod
    def probe(self) -> Probe:
        """Look for usable hardware without importing torch."""

    @abstractmethod
    def new_device(self) -> TorchDevice:
        """Make the device; the probe has said that it is usable."""

    def configure(self, hardware: HardwareConfig) -> None:
        """Keep the chosen hardware. Raises: ConfigError if it should be like another."""
        refuse_imitation(hardware)
        self._hardware = hardware

    def device(self) -> TorchDevice:
        """Return the device family.

        Raises: BackendUnavailable if it cannot be used here; ConfigError if the machine has another arch than
        the hardware file describes, since then no figure of that file would be true.
        """
        if self._device is None:
            self._device = self._usable_device()
        hardware = self._hardware
        if hardware is not None and hardware.arch and hardware.arch != self._device.arch:
            raise ConfigError(
                f"hardware={hardware.name} describes {hardware.arch}, but this machine has "
                f"{self._device.arch}; use hardware={self.probe().hardware}"
            )
        return self._device

    def _usable_device(self) -> TorchDevice:
        probe = self.probe()
        if not probe.usable:
            raise BackendUnavailable(
                f"the backend '{self.name}' looked for {probe.looked_for}; found {probe.found}. "
                f"{probe.remedy}"
            )
        return self.new_device()

    def group(self, timeout_s: float, *, check_calls: bool = True) -> Group:
        """Join this process to its peers, on the device that its place on the node says; alone without them.

        Raises: BackendUnavailable if that device is not there.
        """
        from portable.collective.launch import join_group
        from portable.collective.local import LocalGroup
        from portable.collective.place import read_place

        place = read_place()
        if place.world_size == 1:
            return LocalGroup()
        device = self.device()
        # Before joining: communicators and the first allocations go to the device that is current then.
        device.set_index(place.local_rank)
        return join_group(device, timeout_s, transport=self.transport, check_calls=check_calls)


def refuse_other_accelerator(torch_type: str) -> None:
    """Raise BackendUnavailable if torch drives another accelerator in this process already.

    torch knows one accelerator a process: streams, pinned memory and autograd's threads follow it.
    """
    import torch

    other = torch.accelerator.current_accelerator()
    if other is not None and other.type != torch_type:
        raise BackendUnavailable(
            f"this process should use {torch_type} devices, but torch already drives {other.type}, and it "
            f"drives one kind a process; use a build of torch without {other.type}, or start another process"
        )
