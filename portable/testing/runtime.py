"""A backend set up to compute, as a job would set it up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from portable.kernel.config import KernelConfig, SelfTest
from portable.parallel.build import STRATEGIES as REGISTERED
from portable.parallel.build import build_runtime
from portable.parallel.config import (
    CommunicatorConfig,
    DdpConfig,
    FsdpConfig,
    ParallelConfig,
    PrecisionConfig,
    SingleConfig,
    StrategyConfig,
    ZeroConfig,
)
from portable.parallel.degrees import make_layout
from portable.parallel.mesh import Mesh
from portable.parallel.runtime import Runtime
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig
from portable.testing.selection import configured_backend, hardware_of

STRATEGIES: dict[str, type[StrategyConfig]] = {
    "single": SingleConfig,
    "ddp": DdpConfig,
    **dict.fromkeys(("zero1", "zero2"), ZeroConfig),
    **dict.fromkeys(("zero3", "fsdp", "hsdp"), FsdpConfig),
    "accelerate": AccelerateConfig,
    "deepspeed": DeepspeedConfig,
}


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
        STRATEGIES[strategy](name=strategy),
        precision or PrecisionConfig(),
        CommunicatorConfig(name=backend.device().capability().communicator, timeout_s=60.0),
        KernelConfig(self_test=SelfTest.off),  # rows have a contract of their own
        parallel,
    )


def with_strategy(
    runtime: Runtime,
    strategy: str,
    precision: PrecisionConfig | None = None,
    parallel: ParallelConfig | None = None,
    **settings: object,
) -> Runtime:
    """Return ``runtime``, whose processes have joined, under another strategy or layout, so that one start of
    processes serves many cases. ``settings`` are those of the strategy. All ranks must call.
    """
    parallel, precision = parallel or ParallelConfig(), precision or runtime.precision
    layout = make_layout(parallel, strategy, runtime.group.size)
    mesh = Mesh(layout, runtime.group, runtime.device.torch_type)
    config = STRATEGIES[strategy](name=strategy, **settings)
    new_strategy = partial(REGISTERED.get(strategy), config, precision, mesh, runtime.device)
    return replace(
        runtime,
        mesh=mesh,
        parallel=parallel,
        strategy=strategy,
        new_strategy=new_strategy,
        precision=precision,
    )
