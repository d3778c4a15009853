"""What a test needs of the machine; where that is missing it is skipped, with the reason."""

from __future__ import annotations

import pytest

from portable.core.errors import PortableError
from portable.testing.selection import configured_backend


def need_devices(backend_name: str, count: int) -> None:
    """Skip the test where processes need a device each and there are fewer; a CPU takes any number."""
    device = configured_backend(backend_name).device()
    try:
        device.set_index(count - 1)
    except (PortableError, RuntimeError) as error:
        pytest.skip(f"{count} ranks need {count} devices of {backend_name}, but: {error}")
    finally:
        device.set_index(0)
