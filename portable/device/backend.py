"""What a package registers under the entry-point group ``portable.backends``: a kind of hardware."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from portable.collective.protocol import Group
    from portable.device.protocol import Device
    from portable.hardware.spec import HardwareConfig


@dataclass(frozen=True, slots=True)
class Probe:
    """What a backend found. ``hardware`` is the name of the best matching ``conf/hardware`` file."""

    usable: bool
    hardware: str
    looked_for: str
    found: str
    remedy: str = ""
    first_use: str = ""  # what the first use costs, where that has not been paid yet


class Level(Enum):
    """How much a finding matters."""

    good = "good"
    note = "note"  # works, but somebody should know
    bad = "bad"  # something will not work


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``portable doctor``. ``remedy`` is a command or a step that would mend it."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


class Backend(Protocol):
    """What the entry-point group ``portable.backends`` names: one per kind of hardware."""

    @property
    def name(self) -> str:
        """The registered name, equal to the entry point's."""
        ...

    @property
    def priority(self) -> int:
        """``auto`` takes the usable backend with the highest priority."""
        ...

    @property
    def visible_devices(self) -> str:
        """The environment variable that narrows which devices a process sees; "" where there is none."""
        ...

    def probe(self) -> Probe:
        """Look for usable hardware, cheaply and without importing torch."""
        ...

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Return variables that must stand before torch is imported; the user's own values win."""
        ...

    def configure(self, hardware: HardwareConfig) -> None:
        """Take the settings of the chosen hardware file, before the first ``device()``.

        Raises: ConfigError for a setting that this backend cannot follow.
        """
        ...

    def findings(self) -> list[Finding]:
        """Check what ``portable doctor`` should tell: versions against each other, drivers, settings."""
        ...

    def device(self) -> Device:
        """Return the device family. Raises: BackendUnavailable."""
        ...

    def group(self, timeout_s: float, *, check_calls: bool = True) -> Group:
        """Join this process to its peers, as the launcher's environment says. Raises: BackendUnavailable."""
        ...
