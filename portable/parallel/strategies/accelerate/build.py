"""Which strategy a plugin of accelerate is."""

from __future__ import annotations

from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.strategies.accelerate.config import AccelerateConfig
from portable.parallel.strategies.accelerate.engine import AccelerateDeepspeedStrategy
from portable.parallel.strategies.accelerate.strategy import AccelerateStrategy
from portable.parallel.strategy import Strategy


class _ByPlugin:
    """Called as the class of a strategy is."""

    needs_peers = True

    def __call__(
        self, config: AccelerateConfig, precision: PrecisionConfig, mesh: Mesh, device: Device
    ) -> Strategy:
        if config.plugin == "deepspeed":
            return AccelerateDeepspeedStrategy(config, precision, mesh, device)
        return AccelerateStrategy(config, precision, mesh, device)


new_strategy = _ByPlugin()
