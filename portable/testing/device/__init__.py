"""What every device and its backend must do.

A package with a backend runs all of it by one line in a test file::

    from portable.testing.device import *

Each class is one part of the Protocol; ``portable.testing.plugin`` gives the fixtures.
"""

from portable.testing.device.capability import TestCapability
from portable.testing.device.identity import TestBackend, TestDevice
from portable.testing.device.memory import TestMemory, TestMovement
from portable.testing.device.number import TestNumbers, TestPrecision
from portable.testing.device.order import TestEvents, TestStreams
from portable.testing.device.randomness import TestDeterminism, TestRandomness
from portable.testing.device.totality import TestTotality

__all__ = [
    "TestBackend",
    "TestCapability",
    "TestDeterminism",
    "TestDevice",
    "TestEvents",
    "TestMemory",
    "TestMovement",
    "TestNumbers",
    "TestPrecision",
    "TestRandomness",
    "TestStreams",
    "TestTotality",
]
