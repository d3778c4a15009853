"""A backend set up to compute, as a job would set it up."""

from __future__ import annotations

from portable.kernel.config import KernelConfig, SelfTest
from portable.parallel.build import build_runtime
from portable.parallel.config import (
    CommunicatorConfig,
    DdpConfig,
    FsdpConfig,
    ParallelConfig,
    PrecisionConfig,
    SingleConfig,
    StrategyConfig,
)
from portable.parallel.runtime import Runtime
from portable.testing.selection import configured_backend, hardware_of

STRATEGIES: dict[str, type[StrategyConfig]] = {"single": SingleConfig, "ddp": DdpConfig, "fsdp": FsdpConfig}


def make_runtime(
    backend_name: str = "cpu",
    strategy: str = "single",
    precision: PrecisionConfig | None = None,
    parallel: ParallelConfig | None = None,
) -> Runtime:
    """Join this process's group and return its runtime; float32 unless ``precision`` says otherwise."""
    backend = configured_backend(backend_name)
    return build_runtime(
        hardware_of(backend),
        STRATEGIES[strategy](),
        precision or PrecisionConfig(),
        CommunicatorConfig(name=backend.device().capability().communicator, timeout_s=60.0),
        KernelConfig(self_test=SelfTest.off),  # rows have a contract of their own
        parallel,
    )
