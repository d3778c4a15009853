"""What many tests run on: this machine's processor, one process, float32."""

import pytest

from portable.hardware.spec import HardwareConfig
from portable.kernel.config import KernelConfig, SelfTest
from portable.parallel.build import build_runtime
from portable.parallel.config import CommunicatorConfig, PrecisionConfig, SingleConfig
from portable.parallel.runtime import Runtime


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return build_runtime(
        HardwareConfig(name="cpu", backend="cpu"),
        SingleConfig(),
        PrecisionConfig(),
        CommunicatorConfig(name="gloo"),
        KernelConfig(self_test=SelfTest.off),
    )
