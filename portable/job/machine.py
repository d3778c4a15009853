"""From the machine part of a job's config to a runtime, or to a letter that says why there is none."""

from __future__ import annotations

import ctypes
from dataclasses import asdict
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portable.core.errors import BackendUnavailable
from portable.core.storage import write_json
from portable.device.select import backend_names, load_backend
from portable.engine.config import EngineConfig
from portable.hardware.spec import HardwareConfig
from portable.job.schema import MachineConfig

if TYPE_CHECKING:
    from portable.parallel.runtime import Runtime


class Machine:
    """What the stages of a job run on; the runtime is built when a stage first asks for it."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config

    @property
    def engine(self) -> EngineConfig:
        """Which inference engine to build, and how."""
        return self.config.engine

    @cached_property
    def runtime(self) -> Runtime:
        """Raises: BackendUnavailable if this machine is not what the config says."""
        from portable.parallel.build import build_runtime

        require_hardware(self.config.hardware)
        config = self.config
        return build_runtime(
            config.hardware,
            config.strategy,
            config.precision,
            config.communicator,
            config.kernel,
            config.parallel,
            deterministic=config.deterministic,
        )

    def end_stage(self, folder: Path) -> None:
        """Write ``runtime.json``, what a stage really computed with and why, into its ``folder``.

        Memory that the device's allocator holds unused goes back, for the next stage or the next process. A
        stage that needed no device leaves nothing.
        """
        if "runtime" not in self.__dict__:
            return
        runtime = self.runtime
        runtime.device.empty_cache()
        if runtime.group.rank == 0:
            write_json(folder / "runtime.json", describe_runtime(runtime))


def describe_runtime(runtime: Runtime) -> dict[str, Any]:  # Any: JSON values
    """Return the choices that were made for a run: strategy, kernels, collectives, abilities."""
    return {
        "hardware": runtime.hardware.name,
        "backend": runtime.device.name,
        "strategy": runtime.new_strategy().describe(),
        "precision": runtime.precision.name,
        "modules": runtime.modules,
        "kernels": [asdict(choice) for choice in runtime.kernels.trace],
        "collectives": runtime.group.resolution(),
        "capability": runtime.device.capability().to_json(),
    }


def require_hardware(hardware: HardwareConfig) -> None:
    """Check that ``hardware`` can be used here.

    Raises: BackendUnavailable that says what was looked for, what was found, and what to install.
    """
    findings = look_for(hardware)
    if hardware.backend not in backend_names():
        remedy = hardware.probe.install or "a package that provides the backend"
        raise BackendUnavailable(
            f"hardware={hardware.name} cannot be used on this machine. Looked for: {findings.looked_for}. "
            f"Found: {findings.found}. To use it, install {remedy}; "
            "to see what would be chosen there, add dry_run=true; to run here, use hardware=auto."
        )
    backend = load_backend(hardware.backend)
    backend.configure(hardware)
    probe = backend.probe()
    if not probe.usable:
        raise BackendUnavailable(
            f"hardware={hardware.name} cannot be used on this machine. Looked for: {probe.looked_for}. "
            f"Found: {probe.found}. {probe.remedy or hardware.probe.install}"
        )


class Findings:
    """What a hardware file names, and which of it is on this machine."""

    def __init__(self, wanted: list[str], present: list[str]) -> None:
        self.looked_for = "; ".join(wanted)
        self.found = "; ".join(present) or "none of them"


def look_for(hardware: HardwareConfig) -> Findings:
    """Look for the backend, device nodes, libraries and packages that ``hardware`` needs.

    Nothing heavy is imported for it.
    """
    checks = [(f"the backend '{hardware.backend}'", hardware.backend in backend_names())]
    checks += [(f"device node {node}", Path(node).exists()) for node in hardware.probe.device_nodes]
    checks += [(f"library {name}", _loads(name)) for name in hardware.probe.libraries]
    checks += [(f"Python package {name}", find_spec(name) is not None) for name in hardware.probe.packages]
    return Findings([text for text, _ in checks], [text for text, there in checks if there])


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
