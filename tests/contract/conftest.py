"""Contract tests run once per registered backend that is usable here."""

from __future__ import annotations

import pytest

from portable.device.protocol import Backend
from portable.device.select import backend_names, load_backend

USABLE = [name for name in backend_names() if load_backend(name).probe().usable]


@pytest.fixture(params=USABLE, scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def backend(backend_name: str) -> Backend:
    return load_backend(backend_name)
