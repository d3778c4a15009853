"""From a model folder and a config to an engine, by registered name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from portable.core.errors import BackendUnavailable
from portable.core.registry import Registry
from portable.engine.config import EngineConfig
from portable.engine.protocol import Engine

if TYPE_CHECKING:
    from portable.parallel.runtime import Runtime

# Each names a function (model_dir, config, runtime) -> Engine. Packages add theirs to the entry-point group.
ENGINES = Registry(
    "engine",
    {"native": "portable.engine.native.engine:build", "hf": "portable.engine.hf.engine:build"},
    entry_group="portable.engines",
)


def build_engine(model_dir: Path, config: EngineConfig, runtime: Runtime) -> Engine:
    """Load the model in ``model_dir`` into the engine that ``config`` names.

    Raises: BackendUnavailable if the device cannot run that engine or its package is not installed;
    ConfigError for an unknown name; ArtefactError if the folder holds no model.
    """
    build = ENGINES.get(config.name)
    engines = runtime.device.capability().engines
    reason = engines.get(config.name, "")
    if reason:
        usable = ", ".join(name for name, obstacle in engines.items() if not obstacle)
        raise BackendUnavailable(
            f"engine={config.name} cannot run on {runtime.device.name}: {reason}; usable here: {usable}"
        )
    return build(model_dir, config, runtime)
