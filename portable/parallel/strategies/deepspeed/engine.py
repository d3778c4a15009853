"""DeepSpeed itself: imported when it is first used, started, and checked to be what was asked for."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import Any

from torch import nn
from torch import optim as torch_optim

from portable.core.errors import CapabilityError, ConfigError
from portable.device.capability import Role, Support
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig
from portable.parallel.strategies.deepspeed.document import engine_document
from portable.parallel.strategies.deepspeed.rank import RankTable

Engine = Any  # DeepSpeed ships no types
_OPTIMIZERS = {
    1: "DeepSpeedZeroOptimizer",
    2: "DeepSpeedZeroOptimizer",
    3: "DeepSpeedZeroOptimizer_Stage3",
}


def require_deepspeed() -> None:
    """Raises: ConfigError if DeepSpeed is not installed."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "strategy=deepspeed needs the package deepspeed, which is not installed; run pip install "
            "'portable-llm[deepspeed]', or use strategy=zero1, zero2 or fsdp, which need nothing"
        )


def import_deepspeed(device: Device) -> Any:
    """Return the package, set to ``device``, its log lines of less than a warning left out.

    Raises: ConfigError if it is not installed.
    """
    require_deepspeed()
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
    # Left to itself it takes the first accelerator whose package is installed.
    os.environ.setdefault("DS_ACCELERATOR", device.torch_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # torch 2.13 renamed collectives that DeepSpeed calls by their old names.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed\.|torch\.distributed")
    return deepspeed


def start_engine(
    module: nn.Module,
    optimizer: torch_optim.Optimizer,
    config: DeepspeedConfig,
    precision: PrecisionConfig,
    ranks: RankTable,
    device: Device,
) -> Engine:
    """Return the engine around ``module``; all ranks must call. It divides the parameters in place.

    Raises: CapabilityError if it is not what was asked for.
    """
    deepspeed = import_deepspeed(device)
    os.environ.setdefault("LOCAL_RANK", str(ranks.data.local_rank))
    tell_abilities(device)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=engine_document(config, precision),
        mpu=ranks,
        dist_init_required=False,
    )
    check_engine(engine, config, precision, ranks, device)
    return engine


def tell_abilities(device: Device) -> None:
    """Let the engine add up norms in float32 where the communicator does not carry float64.

    DeepSpeed believes of every accelerator but one that it computes in float64, and sends stage 3's norm so.
    """
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    if device.capability().dtype(Role.collective, "fp64") is not Support.native:
        accelerator.is_fp64_supported = lambda: False


def check_engine(
    engine: Engine, config: DeepspeedConfig, precision: PrecisionConfig, ranks: RankTable, device: Device
) -> None:
    """Raises:

    CapabilityError if class, stage, device, ranks, communicator or number format are not as asked for.
    """
    import torch.distributed as dist
    from deepspeed.accelerator import get_accelerator

    group = ranks.get_data_parallel_group()
    accelerator: Any = get_accelerator()
    wanted: dict[str, object] = {
        "engine": "DeepSpeedEngine",
        "zero stage": config.stage,
        "accelerator": device.torch_type,
        "data-parallel ranks": ranks.get_data_parallel_group_ranks(),
        "model-parallel ranks": ranks.model.size,
        "communicator": dist.get_backend(group),
        "number format": precision.compute_dtype.torch(),
        "clipping": 0.0,
    }
    found: dict[str, object] = {
        "engine": type(engine).__name__,
        "zero stage": int(engine.zero_optimization_stage()),
        "accelerator": accelerator.device_name(),
        "data-parallel ranks": dist.get_process_group_ranks(engine.seq_data_parallel_group),
        "model-parallel ranks": engine.mp_world_size,
        "communicator": dist.get_backend(engine.seq_data_parallel_group),
        "number format": engine.get_data_types()[0],
        "clipping": engine.gradient_clipping(),
    }
    if config.stage > 0:
        wanted["optimiser"] = _OPTIMIZERS[config.stage]
        found["optimiser"] = type(engine.optimizer).__name__
    wrong = [
        f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]
    ]
    if wrong:
        raise CapabilityError(
            f"strategy=deepspeed has set up something else than was asked for: {'; '.join(wrong)}"
        )
