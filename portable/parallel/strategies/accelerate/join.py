"""Accelerate itself: imported when it is used first, started inside our group, and looked at whether it is
what was asked for. On devices that it does not know it silently trains something else.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.nn.parallel import DistributedDataParallel

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError, ConfigError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.deepspeed.document import engine_document
from portable.parallel.strategies.deepspeed.engine import import_deepspeed, require_deepspeed
from portable.parallel.strategies.fsdp_state import groups_of

if TYPE_CHECKING:
    from accelerate import Accelerator

_HOST, _HOST_COMMUNICATOR = "cpu", "gloo"
_KINDS = {"fsdp2": "FSDP", "deepspeed": "DEEPSPEED"}  # accelerate's words
_REMEDY = (
    "unset variables ACCELERATE_* and FSDP_*, or use strategy=ddp or strategy=fsdp, which run on every device"
)


def require_accelerate(config: AccelerateConfig, device: Device) -> None:
    """Raises: ConfigError if a package is missing, or accelerate would ignore the plugin on ``device``."""
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError(
            "strategy=accelerate needs the package accelerate, which is not installed; run pip install "
            "'portable-llm[accelerate]', or use strategy=ddp or fsdp, which need nothing"
        )
    if config.plugin == "deepspeed":
        require_deepspeed()
    if config.plugin == "fsdp2" and device.torch_type == _HOST:
        raise ConfigError(
            f"strategy.plugin=fsdp2: on {device.name} accelerate ignores its FSDP plugin and replicates the "
            "model; use strategy.plugin=ddp, or strategy=fsdp, which shards on every device"
        )


def check_layout(mesh: Mesh) -> None:
    """Raises: ConfigError for axes that accelerate's wrappers do not know of."""
    used = [axis for axis in ("pp", "tp", "ep") if mesh.layout.size(axis) > 1]
    if used:
        raise ConfigError(
            f"strategy=accelerate spreads a model over ranks that all hold the same one, but the layout is "
            f"{mesh.layout}; leave {', '.join(used)} at 1 (context parallelism goes), or use strategy=ddp or "
            "fsdp, which go with every axis"
        )


def join_accelerate(
    config: AccelerateConfig,
    precision: PrecisionConfig,
    group: Group,
    device: Device,
    block_classes: list[str],
) -> Accelerator:
    """Return an Accelerator that has joined ``group``, all ranks; modules of ``block_classes`` are sharded
    each by itself.

    Raises: CapabilityError if it has set up something else.
    """
    # Accelerators of a process share one state, which keeps what the first one was given.
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]  # no public name
    with launched(group):
        accelerator = _make(config, precision, device, block_classes)
    check_joined(accelerator, config, group, device)
    return accelerator


def _make(
    config: AccelerateConfig, precision: PrecisionConfig, device: Device, block_classes: list[str]
) -> Accelerator:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedDataParallelKwargs

    if config.plugin == "deepspeed":
        return _make_for_deepspeed(config, precision, device)
    # Number formats are the trainer's matter (autocast) or the policy's; accelerate is told of none.
    shared: dict[str, Any] = {"cpu": device.torch_type == _HOST, "mixed_precision": "no"}
    if config.plugin == "ddp":
        settings = DistributedDataParallelKwargs(
            broadcast_buffers=False,  # models here keep their buffers alike themselves
            bucket_cap_mb=config.bucket_mb,
            find_unused_parameters=config.find_unused_parameters,
            gradient_as_bucket_view=True,
        )
        return Accelerator(kwargs_handlers=[settings], **shared)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=config.reshard_after_forward,
        auto_wrap_policy="transformer_based_wrap" if block_classes else "no_wrap",
        transformer_cls_names_to_wrap=block_classes or None,
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=precision.compute_dtype.torch(),
            reduce_dtype=precision.reduce_dtype.torch(),
            cast_forward_inputs=False,
        ),
        cpu_offload=False,
        activation_checkpointing=False,
        cpu_ram_efficient_loading=False,
    )
    return Accelerator(fsdp_plugin=plugin, **shared)


def _make_for_deepspeed(config: AccelerateConfig, precision: PrecisionConfig, device: Device) -> Accelerator:
    import_deepspeed(device)
    from accelerate import Accelerator, DeepSpeedPlugin
    from accelerate.utils import InitProcessGroupKwargs, KwargsHandler

    plugin = DeepSpeedPlugin(
        hf_ds_config=engine_document(config.engine_settings(), precision),
        gradient_accumulation_steps=1,
        gradient_clipping=0.0,
        zero3_init_flag=False,
    )
    # With cpu=True it forgets the plugin; without, it counts one process unless a communicator is named.
    on_host = device.torch_type == _HOST
    join: list[KwargsHandler] = [InitProcessGroupKwargs(backend=_HOST_COMMUNICATOR)] if on_host else []
    return Accelerator(cpu=False, deepspeed_plugin=plugin, kwargs_handlers=join)


def check_joined(accelerator: Accelerator, config: AccelerateConfig, group: Group, device: Device) -> None:
    """Raises: CapabilityError if kind, ranks, device or communicator are not those asked for."""
    kind = accelerator.distributed_type.name
    replicates = kind.startswith("MULTI_")
    wanted = _KINDS.get(config.plugin, kind if replicates else "MULTI_*")
    joined = dist.is_initialized()
    _report(
        config.plugin,
        {
            "distributed_type": (wanted, kind),
            "num_processes": (group.size, accelerator.num_processes),
            "process_index": (group.rank, accelerator.process_index),
            "device": (device.torch_type, accelerator.device.type),
            "process group": (group.size, dist.get_world_size() if joined else 1),
        },
    )


def check_prepared(module: nn.Module, config: AccelerateConfig, group: Group) -> None:
    """Raises: CapabilityError if the model was wrapped in something else, or in another process group."""
    wanted = DistributedDataParallel if config.plugin == "ddp" else FSDPModule
    found: set[object] = set()
    if isinstance(module, DistributedDataParallel):
        found = {module.process_group}
    elif isinstance(module, FSDPModule):
        found = {
            spanned
            for part in module.modules()
            if isinstance(part, FSDPModule)
            for _, spanned in groups_of(part)
        }
    _report(
        config.plugin,
        {
            "engine": (True, isinstance(module, wanted) or type(module).__name__),
            "process group": (True, found <= {group.process_group} or f"of its own ({len(found)})"),
        },
    )


def _report(plugin: str, facts: dict[str, tuple[object, object]]) -> None:
    wrong = [
        f"{name} {found}" + ("" if wanted is True else f" instead of {wanted}")
        for name, (wanted, found) in facts.items()
        if found != wanted
    ]
    if wrong:
        raise CapabilityError(
            f"strategy=accelerate with strategy.plugin={plugin}: accelerate has set up something else than "
            f"was asked for, without a word: {'; '.join(wrong)}. {_REMEDY[0].upper()}{_REMEDY[1:]}"
        )


@contextmanager
def launched(group: Group) -> Generator[None]:
    """Show accelerate the variables of torchrun, whoever launched us; what it sets itself is gone after."""
    before = dict(os.environ)
    os.environ.update(
        RANK=str(group.rank),
        WORLD_SIZE=str(group.size),
        LOCAL_RANK=str(group.local_rank),
        OMP_NUM_THREADS=str(torch.get_num_threads()),  # else it would choose their number
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
