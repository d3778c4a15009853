"""DeepSpeed itself: imported when it is first used, started, and checked to be what was asked for."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import Any

from torch import nn
from torch import optim as torch_optim

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError, ConfigError
from portable.parallel.config import PrecisionConfig
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig
from portable.parallel.strategies.deepspeed.document import engine_document

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


def import_deepspeed() -> Any:
    """Return the package, its log lines of less than a warning left out.

    Raises: ConfigError if it is not installed.
    """
    require_deepspeed()
    os.environ.setdefault("DS_LOG_LEVEL", "warning")
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
    data: Group,
) -> Engine:
    """Return the engine around ``module``; all ranks must call. It divides the parameters in place.

    Raises: CapabilityError if it is not what was asked for.
    """
    deepspeed = import_deepspeed()
    os.environ.setdefault("LOCAL_RANK", str(data.local_rank))
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        config=engine_document(config, precision),
        dist_init_required=False,
    )
    check_engine(engine, config, precision, data)
    return engine


def check_engine(engine: Engine, config: DeepspeedConfig, precision: PrecisionConfig, data: Group) -> None:
    """Raises: CapabilityError if class, stage, ranks, communicator or number format are not as asked for."""
    import torch.distributed as dist

    wanted: dict[str, object] = {
        "engine": "DeepSpeedEngine",
        "zero stage": config.stage,
        "data-parallel ranks": data.size,
        "communicator": _backend(data),
        "number format": precision.compute_dtype.torch(),
        "clipping": 0.0,
    }
    found: dict[str, object] = {
        "engine": type(engine).__name__,
        "zero stage": int(engine.zero_optimization_stage()),
        "data-parallel ranks": engine.dp_world_size,
        "communicator": dist.get_backend(engine.data_parallel_group),
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


def _backend(group: Group) -> str:
    import torch.distributed as dist

    return dist.get_backend(group.process_group)
