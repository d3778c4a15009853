"""From settings to a runtime: every choice is checked here against what the machine can do, before anything
is built.
"""

import logging
from functools import partial

from portable.collective.protocol import Group
from portable.core.errors import BackendUnavailable, ConfigError
from portable.core.registry import Registry
from portable.device.capability import Capability, Feature, Role, Support
from portable.device.protocol import Device, Dtype
from portable.device.select import load_backend
from portable.hardware.spec import HardwareConfig
from portable.kernel.config import KernelConfig, SelfTest
from portable.kernel.registry import KernelSet
from portable.kernel.self_test import examine
from portable.parallel.ability import check_compilation, check_float8
from portable.parallel.config import (
    CommunicatorConfig,
    ParallelConfig,
    PrecisionConfig,
    SingleConfig,
    StrategyConfig,
)
from portable.parallel.degrees import make_layout
from portable.parallel.mesh import Mesh
from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)

STRATEGIES = Registry(
    "strategy",
    {
        "single": "portable.parallel.strategies.replicated:SingleStrategy",
        "ddp": "portable.parallel.strategies.replicated:DdpStrategy",
        "zero1": "portable.parallel.strategies.replicated:ZeroStrategy",
        "zero2": "portable.parallel.strategies.replicated:ZeroStrategy",
        "zero3": "portable.parallel.strategies.fsdp:FsdpStrategy",
        "fsdp": "portable.parallel.strategies.fsdp:FsdpStrategy",
        "hsdp": "portable.parallel.strategies.fsdp:FsdpStrategy",
        "accelerate": "portable.parallel.strategies.accelerate.build:new_strategy",
        "deepspeed": "portable.parallel.strategies.deepspeed.strategy:DeepspeedStrategy",
    },
    entry_group="portable.strategies",
)


def build_runtime(
    hardware: HardwareConfig,
    strategy: StrategyConfig,
    precision: PrecisionConfig,
    communicator: CommunicatorConfig,
    kernel: KernelConfig,
    parallel: ParallelConfig | None = None,
    *,
    deterministic: bool = False,
) -> Runtime:
    """Join the group and set up what a stage computes with.

    A strategy that only spreads a model over processes has nothing to do on one process: there,
    ``single`` trains the same model, and the log says so.

    Raises: BackendUnavailable if the hardware is not here; ConfigError if it cannot do what was asked of it.
    """
    backend = load_backend(hardware.backend)
    backend.configure(hardware)
    probe = backend.probe()
    if not probe.usable:
        raise BackendUnavailable(
            f"hardware={hardware.name} is not usable on this machine: looked for {probe.looked_for}; "
            f"found {probe.found}. {probe.remedy or hardware.probe.install} Or use hardware=auto."
        )
    target = STRATEGIES.get(strategy.name)
    device = backend.device()
    capability = device.capability()
    check_strategy(strategy, capability, hardware)
    check_precision(precision, capability, hardware)
    check_compilation(parallel or ParallelConfig(), capability, hardware.name)
    check_communicator(communicator, capability, hardware)
    kernels = KernelSet(backend.name, precision.compute_dtype.name, kernel, deterministic=deterministic)
    device.set_deterministic(deterministic)
    group = backend.group(communicator.timeout_s, check_calls=communicator.check_calls)
    device.set_index(group.local_rank)
    try:
        _check_joined(communicator, group)
        if group.size == 1 and target.needs_peers:
            logger.info(
                "strategy=%s spreads a model over processes, and this is one: strategy=single trains the "
                "same model",
                strategy.name,
            )
            strategy, target = SingleConfig(), STRATEGIES.get("single")
        parallel = parallel or ParallelConfig()
        mesh = Mesh(make_layout(parallel, strategy.name, group.size), group, device.torch_type)
        _examine_kernels(kernels, device, group)
        new_strategy = partial(target, strategy, precision, mesh, device)
        new_strategy()  # what cannot be is refused here, before a stage begins
    except ConfigError:
        group.close()
        raise
    runtime = Runtime(device, mesh, parallel, strategy.name, new_strategy, kernels, precision, hardware)
    logger.info(
        "on %s (%s), strategy %s, %d process%s over %s, layout %s, %s",
        *(hardware.name, device.arch, strategy.name, group.size, "" if group.size == 1 else "es"),
        *(group.communicator, mesh.layout, precision.name),
    )
    return runtime


def _examine_kernels(kernels: KernelSet, device: Device, group: Group) -> None:
    """Demote rows that fail here. All ranks take the first one's verdicts, so that they compute alike."""
    asked = kernels.config.self_test
    if asked is SelfTest.off:
        return
    # A clock may judge differently tomorrow, which a deterministic run must not; a simulator's says nothing.
    timed = (
        asked is SelfTest.fast
        and not kernels.deterministic
        and device.capability().supports(Feature.real_time)
    )
    examine(kernels, device, index=group.local_rank, timed=timed, agree=group.broadcast_object)


def check_strategy(strategy: StrategyConfig, capability: Capability, hardware: HardwareConfig) -> None:
    """Raises:

    ConfigError if the device cannot run the strategy; the text gives the reason and those that work.
    """
    reason = capability.strategies.get(strategy.name, f"the backend {hardware.backend} does not list it")
    if reason:
        usable = [name for name, obstacle in capability.strategies.items() if not obstacle]
        raise ConfigError(
            f"strategy={strategy.name} cannot run on hardware={hardware.name}: {reason}; use one of "
            f"{', '.join(usable)}"
        )


def check_precision(precision: PrecisionConfig, capability: Capability, hardware: HardwareConfig) -> None:
    """Warn of an emulated number format. Raises: ConfigError for one that the device lacks."""
    check_float8(precision.float8, capability, hardware.name)
    for field, dtype in (("param_dtype", precision.param_dtype), ("compute_dtype", precision.compute_dtype)):
        support = capability.dtype(Role.matmul, dtype.name)
        if support is Support.none:
            usable = [
                item.name for item in Dtype if capability.dtype(Role.matmul, item.name) is not Support.none
            ]
            raise ConfigError(
                f"precision.{field}={dtype.name} does not exist on hardware={hardware.name}; use one of "
                f"{', '.join(usable)}"
            )
        if support is Support.emulated:
            logger.warning(
                "precision.%s=%s is emulated on %s: right, but slow", field, dtype.name, hardware.name
            )


def check_communicator(
    communicator: CommunicatorConfig, capability: Capability, hardware: HardwareConfig
) -> None:
    """Raises: ConfigError if the device's tensors travel by something else."""
    if communicator.name != capability.communicator:
        raise ConfigError(
            f"communicator={communicator.name} does not carry tensors of hardware={hardware.name}; "
            f"use communicator={capability.communicator}"
        )


def _check_joined(communicator: CommunicatorConfig, group: Group) -> None:
    if group.size > 1 and group.communicator != communicator.name:
        raise ConfigError(
            f"communicator={communicator.name} was asked for, but the processes are joined by "
            f"{group.communicator}; use communicator={group.communicator}"
        )
