"""DeepSpeed's engine as accelerate starts and drives it, under our trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch import optim as torch_optim

from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.accelerate.join import (
    check_layout,
    join_accelerate,
    launched,
    require_accelerate,
)
from portable.parallel.strategies.deepspeed.engine import Engine, check_engine, tell_abilities
from portable.parallel.strategies.deepspeed.rank import RankTable
from portable.parallel.strategies.deepspeed.strategy import DeepspeedStrategy

if TYPE_CHECKING:
    from accelerate import Accelerator


class AccelerateDeepspeedStrategy(DeepspeedStrategy):
    """The plugin ``deepspeed``: ``Accelerator`` prepares the engine and runs its backward passes."""

    def __init__(
        self, config: AccelerateConfig, precision: PrecisionConfig, mesh: Mesh, device: Device
    ) -> None:
        require_accelerate(config, device)
        check_layout(mesh)
        super().__init__(config.engine_settings(), precision, mesh, device)
        self._asked = config
        self._accelerator: Accelerator | None = None

    @property
    def accelerator(self) -> Accelerator:
        """The Accelerator. Raises: CapabilityError before ``attach``."""
        if self._accelerator is None:
            raise CapabilityError("strategy=accelerate has prepared no model yet; call attach() first")
        return self._accelerator

    def accumulate(self, *, last: bool) -> None:
        """Say where the step ends; accelerate tells the engine."""
        self.accelerator.sync_gradients = last

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return what was really set up."""
        return super().describe() | {
            "plugin": self._asked.plugin,
            "distributed_type": self.accelerator.distributed_type.value,
            "engine": type(self.engine).__name__,
            "world_size": self.accelerator.num_processes,
        }

    def _start(self, optimizer: torch_optim.Optimizer, ranks: RankTable) -> Engine:
        """Let accelerate start the engine. Raises: CapabilityError if it has started something else."""
        self._accelerator = join_accelerate(self._asked, self.precision, self.group, self.device, [])
        tell_abilities(self.device)
        with launched(self.group):
            engine, _ = self._accelerator.prepare(self.parts[0], optimizer)
        _release_loaders()
        check_engine(engine, self.config, self.precision, ranks, self.device)
        self._accelerator.deepspeed_engine_wrapped = _leave_the_step(engine)
        return engine

    def _run_backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss, scale_wrt_gas=False)


def _release_loaders() -> None:
    """Let models that are loaded from now on be whole again: transformers was told of a stage 3."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _leave_the_step(engine: Engine) -> Any:
    """Return accelerate's handle of the engine, which would update within the last backward pass: before the
    trainer has said what norm to clip at.
    """
    from accelerate.utils.deepspeed import DeepSpeedEngineWrapper

    class Handle(DeepSpeedEngineWrapper):
        def backward(self, loss: Tensor, sync_gradients: bool = True, **settings: Any) -> None:
            engine.set_gradient_accumulation_boundary(is_boundary=sync_gradients)
            engine.backward(loss, **settings)

    return Handle(engine)
