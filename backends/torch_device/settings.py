"""Settings that every backend of a real chip takes, or refuses, alike."""

from portable.core.errors import ConfigError
from portable.hardware.spec import HardwareConfig

# torch loads every installed device plug-in when it is imported, and cannot be imported where one is broken.
# A backend imports its own plug-in itself, by name.
NO_AUTOLOAD = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def refuse_imitation(hardware: HardwareConfig) -> None:
    """Raise ConfigError if ``hardware`` asks a real chip to behave like another one."""
    if hardware.like:
        raise ConfigError(
            f"hardware.like={hardware.like}, but the backend '{hardware.backend}' computes on a real chip, "
            "which is only like itself; leave hardware.like empty, or use hardware=sim"
        )
