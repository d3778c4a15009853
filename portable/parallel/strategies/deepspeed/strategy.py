"""DeepSpeed's engine under our trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import optim as torch_optim

from portable.core.errors import CapabilityError, ConfigError
from portable.device.protocol import Device, Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.gather import gather_whole
from portable.parallel.gradient import clip_gradients
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement, Placements
from portable.parallel.strategies.deepspeed import fragment
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig
from portable.parallel.strategies.deepspeed.document import engine_document
from portable.parallel.strategies.deepspeed.engine import Engine, require_deepspeed, start_engine
from portable.parallel.strategies.deepspeed.extension import load_file_access
from portable.parallel.strategies.deepspeed.importer import import_settings
from portable.parallel.strategies.deepspeed.optimizer import engine_optimizer
from portable.parallel.strategies.deepspeed.rank import DATA, RankTable, mark_parts, sum_parts
from portable.parallel.strategies.native import named_parameters
from portable.parallel.strategies.peer import checked_group
from portable.parallel.strategy import StepOptimizer


class DeepspeedStrategy:
    """Lets the engine divide, move and update; values come and go by name, as under every strategy.

    The engine clips, updates and drops gradients in one call, and knows the norm only then: it is
    ``clip_grad_norm`` that makes the call, and ``step`` has nothing left to do.
    """

    needs_peers = True
    wraps_meta = False

    def __init__(
        self, config: DeepspeedConfig, precision: PrecisionConfig, mesh: Mesh, device: Device
    ) -> None:
        require_deepspeed()
        config = import_settings(config, precision)
        _check_layout(config, mesh)
        _check_precision(config, precision)
        self.name = config.name
        self.config = config
        self.shards_parameters = config.stage == 3
        self.precision = precision
        self.mesh = mesh
        self.device = device
        self.group = checked_group(self.name, DATA, mesh, device)
        self.parts: list[nn.Module] = []
        self._parameters: dict[str, nn.Parameter] = {}
        self._placements: dict[str, Placement] = {}
        self._handed_out: list[ParameterShard] = []
        self._engine: Engine = None
        self._has_gradients = False

    @property
    def modules(self) -> list[nn.Module]:
        """The engine, once there is one."""
        return self.parts if self._engine is None else [self._engine]

    @property
    def engine(self) -> Engine:
        """DeepSpeed's engine. Raises: CapabilityError before ``attach``."""
        if self._engine is None:
            raise CapabilityError("strategy=deepspeed has no engine yet; call attach() first")
        return self._engine

    def wrap(self, parts: Sequence[nn.Module], placements: Placements) -> None:
        """Take the model, in float32 as long as the engine has not narrowed it."""
        self.parts = list(parts)
        for name, parameter in named_parameters(self.parts).items():
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
            self._parameters[name] = parameter
            self._placements[name] = placements.get(name, Placement(tuple(parameter.shape)))
        mark_parts(self._parameters, self._placements, self.mesh)
        sum_parts(self._parameters, self._placements, self.mesh, self.precision.reduce_dtype)

    def shards(self) -> list[ParameterShard]:
        """Return the model's own parameters, out of which the engine makes what it updates."""
        return [shard for shard in self._own() if shard.parameter.requires_grad]

    def holdings(self) -> list[ParameterShard]:
        """Return this rank's part of every weight: with an engine copies, which ``publish`` brings back."""
        if self._engine is None:
            return self._own()
        self._handed_out = [self._part(name) for name in self._parameters]
        return self._handed_out

    def attach(self, optimizer: StepOptimizer) -> None:
        """Start the engine over the one torch optimiser that the trainer built.

        Raises: ConfigError for an optimiser of other parts or another kind.
        """
        if "nvme" in (self.config.offload_optimizer.device, self.config.offload_param.device):
            load_file_access(self.device)
        stepped = engine_optimizer(optimizer, self.config, self.device)
        self._engine = self._start(stepped, RankTable(self.mesh))
        if self.config.stage in (1, 2):
            # Its first step would link the state of the first group of parameters, and leave out the others'.
            fragment.prepare(self._engine)

    def accumulate(self, *, last: bool) -> None:
        """Tell the engine where the step ends."""
        self.engine.set_gradient_accumulation_boundary(last)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass so that gradients add up: stage 3 averages, which is undone here."""
        scale = self.group.size if self.config.stage == 3 else 1
        self._run_backward(loss * scale)
        self._has_gradients = True

    def reduce_gradients(self) -> None:
        """Nothing is left: the engine adds up within the last backward pass."""

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Clip and update; return the norm before, which is 0 without gradients."""
        engine = self.engine
        if not self._has_gradients:
            return torch.zeros((), device=self._torch_device)
        if self.config.stage == 0:
            norm = clip_gradients(self.shards(), self.mesh, max_norm)
            self._update()
            return norm
        engine.optimizer.clip_grad = max_norm
        self._update()
        norm = engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self._torch_device)

    def step(self) -> None:
        """Update, unless ``clip_grad_norm`` has."""
        self.clip_grad_norm(0.0)

    def skip(self) -> None:
        """Raises: CapabilityError; number formats that overflow are refused, so nobody calls."""
        raise CapabilityError("strategy=deepspeed cannot drop a step: the engine has updated by then")

    @torch.no_grad()
    def publish(self) -> None:
        """Give the engine the weights that ``holdings`` handed out last."""
        if self._engine is None:
            return
        for shard in self._handed_out:
            whole = gather_whole(shard.parameter.detach(), self._inside(shard.name), self.mesh)
            fragment.write_weight(self._engine, self._parameters[shard.name], whole)
        fragment.publish(self._engine)
        self._handed_out = []

    def held(self) -> dict[str, list[Tensor]]:
        """Return the engine's buffers that are on the device; what is offloaded to a host is not."""
        if self._engine is None:
            return {}
        kind = self._torch_device.type
        tensors = fragment.held_tensors(self._engine)
        return {name: [held for held in own if held.device.type == kind] for name, own in tensors.items()}

    @torch.no_grad()
    def state(self) -> dict[str, tuple[Tensor, ParameterShard | None]]:
        """Return this rank's part of weights and moments, as copies."""
        fragment.prepare(self.engine)
        found: dict[str, tuple[Tensor, ParameterShard | None]] = {}
        step = fragment.read_step(self.engine)
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                continue
            shard = self._part(name)
            found[f"model/{name}"] = (shard.parameter.detach(), shard)
            found[f"optimizer/{name}/step"] = (step, None)
            for key in fragment.MOMENTS:
                whole = fragment.read_moment(self.engine, parameter, key)
                found[f"optimizer/{name}/{key}"] = (self._own_box(whole, name), shard)
        return found

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the values of ``state()``'s form."""
        fragment.prepare(self.engine)
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                continue
            placement = self._inside(name)
            whole = gather_whole(self._to_device(state[f"model/{name}"]), placement, self.mesh)
            fragment.write_weight(self.engine, parameter, whole)
            for key in fragment.MOMENTS:
                part = self._to_device(state[f"optimizer/{name}/{key}"])
                whole = gather_whole(part, placement, self.mesh)
                fragment.write_moment(self.engine, parameter, key, whole)
            fragment.write_step(self.engine, state[f"optimizer/{name}/step"])
        fragment.publish(self.engine)
        self._handed_out = []

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what is set up, with the settings of ``zero_optimization``."""
        return {
            "name": self.name,
            "world_size": self.group.size,
            "communicator": self.group.communicator,
            "zero_optimization": engine_document(self.config, self.precision)["zero_optimization"],
        }

    def _start(self, optimizer: torch_optim.Optimizer, ranks: RankTable) -> Engine:
        """Return the engine, checked."""
        return start_engine(self.parts[0], optimizer, self.config, self.precision, ranks, self.device)

    def _run_backward(self, loss: Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    @property
    def _torch_device(self) -> torch.device:
        return self.device.torch_device(self.group.local_rank)

    def _update(self) -> None:
        self.engine.step()
        self._has_gradients = False
        self._handed_out = []

    def _own(self) -> list[ParameterShard]:
        return [
            ParameterShard(name, parameter, self._placements[name])
            for name, parameter in self._parameters.items()
        ]

    def _inside(self, name: str) -> Placement:
        """Return where this rank's part lies in what the ranks of the engine hold between them: a parameter,
        or a tensor-parallel part of one. The engine's own parts are no boxes, so values go by ours.
        """
        return _divided(Placement(fragment.whole_shape(self._parameters[name])))

    def _part(self, name: str) -> ParameterShard:
        """Return this rank's part of a weight, a copy."""
        parameter = self._parameters[name]
        part = self._own_box(fragment.read_weight(self.engine, parameter), name)
        owned = nn.Parameter(part, parameter.requires_grad)
        return ParameterShard(name, owned, _divided(self._placements[name]))

    def _own_box(self, whole: Tensor, name: str) -> Tensor:
        return self._inside(name).extent(self.mesh).of(whole).clone()

    def _to_device(self, part: Tensor) -> Tensor:
        return part.to(self._torch_device)


def _divided(placement: Placement) -> Placement:
    return placement.cut(0, DATA) if placement.shape else placement


def _check_layout(config: DeepspeedConfig, mesh: Mesh) -> None:
    """Raises: ConfigError for axes that the engine does not know of."""
    reasons = {
        "pp": "runs stages by a pipeline of its own only",
        "ep": "adds up all gradients over the same ranks, and an expert's come from others",
    }
    for axis, reason in reasons.items():
        if mesh.layout.size(axis) > 1:
            raise ConfigError(
                f"strategy=deepspeed {reason}, but the layout is {mesh.layout}; leave {axis} at 1 (tp and cp "
                "go), or use strategy=zero1, zero2 or fsdp, which go with every axis"
            )
    if mesh.layout.tp > 1 and config.zero_hpz_partition_size > 1:
        raise ConfigError(
            f"strategy.zero_hpz_partition_size={config.zero_hpz_partition_size} joins neighbours, which hold "
            f"different parts in the layout {mesh.layout}; use 1, or leave tp at 1"
        )


def _check_precision(config: DeepspeedConfig, precision: PrecisionConfig) -> None:
    """Raises: ConfigError for number formats that the engine has not, or has differently."""
    if precision.param_dtype is not Dtype.fp32:
        raise ConfigError(
            f"precision.param_dtype={precision.param_dtype.name}: strategy=deepspeed keeps float32 weights; "
            "use precision=bf16, or strategy=fsdp"
        )
    if precision.compute_dtype is Dtype.fp16:
        raise ConfigError(
            "precision.compute_dtype=fp16: strategy=deepspeed updates before the trainer sees an overflow; "
            "use precision=bf16, or strategy=zero1, zero2 or fsdp"
        )
    if config.stage == 0 and precision.compute_dtype is not Dtype.fp32:
        raise ConfigError(
            f"strategy.stage=0 with precision.compute_dtype={precision.compute_dtype.name} takes another way "
            "through DeepSpeed, whose losses differ from every other stage's; use strategy.stage=1, or "
            "strategy=ddp"
        )
