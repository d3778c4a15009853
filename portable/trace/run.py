"""Runs a user's job as it stands up to the traced step, and watches that step."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from portable.config.load import load
from portable.config.override import resolve_auto
from portable.core.errors import ConfigError, did_you_mean
from portable.core.registry import load_target
from portable.core.workspace import Workspace
from portable.device.select import detect_hardware, load_backend
from portable.job.environment import describe_device, git_revision, package_versions
from portable.job.inputs import require_inputs
from portable.job.machine import Machine, require_hardware
from portable.job.schema import MachineConfig, PretrainJob, RlJob, SftJob
from portable.job.stage import stage_of
from portable.parallel.runtime import Runtime
from portable.trace.recording import Recording
from portable.trace.replay import Replay
from portable.trace.step import StepSink, StepTraced, TracedStrategy
from portable.trace.tracer import Tracer
from portable.train.trainer import DivergedError

logger = logging.getLogger(__name__)
VERBS = ("pretrain", "sft", "rl")
_HARDWARE = "hardware="


@dataclass(frozen=True, slots=True)
class Request:
    """Which step of which job: the verb and overrides as the user typed them, counts from 1."""

    verb: str
    overrides: tuple[str, ...]
    step: int = 1
    micro_batch: int = 1
    config_dir: str = ""

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise ConfigError(
                f"trace cannot follow '{self.verb}'.{did_you_mean(self.verb, VERBS)} "
                f"It follows a step of training: {', '.join(VERBS)}"
            )
        for name, value in (("step", self.step), ("micro-batch", self.micro_batch)):
            if value < 1:
                raise ConfigError(f"--{name}={value}; counts begin at 1")

    def elsewhere(self, overrides: Sequence[str]) -> Request:
        """Return the same step with more ``overrides``, on the hardware that they or this machine name."""
        kept = tuple(word for word in self.overrides if not word.startswith(_HARDWARE))
        return replace(self, overrides=(*kept, *overrides))


def trace(request: Request, *, replays: bool) -> tuple[Recording, list[Replay]]:
    """Run the job to the end of the step; with ``replays`` also repeat each kernel call by its reference.

    Nothing is left behind: the job works in a folder that is removed.
    Raises: ConfigError for a step that the job does not have, or for several processes.
    """
    config_dir = Path(request.config_dir) if request.config_dir else None
    job = load(request.verb, resolve_auto(request.overrides, detect_hardware), config_dir)
    _prepare(job, request)
    machine = Machine(job)
    runtime = machine.runtime
    if runtime.group.size > 1:
        raise ConfigError(
            f"trace follows one process, and this is one of {runtime.group.size}; start it without the "
            "launcher: the job then runs on one device, with all micro-batches of the step"
        )
    tracer = Tracer(replays=replays)
    recording = Recording(_describe_request(request))
    strategy = TracedStrategy(
        runtime.new_strategy(), tracer, recording, step=request.step, micro_batch=request.micro_batch
    )
    sink = StepSink(strategy)
    runtime.kernels.observer = tracer.observe
    _run(request, job, machine, runtime, strategy, sink)
    recording.nodes = tracer.nodes
    if not recording.nodes:
        raise ConfigError(
            f"--micro-batch={request.micro_batch}, but step {request.step} has {len(recording.losses)}; name "
            "one that it has"
        )
    recording.header |= _describe_run(job, runtime) | {
        "loss": sink.values.get("loss", math.nan),
        "grad_norm": sink.values.get("grad_norm", math.nan),
    }
    return recording, tracer.replays


def _prepare(job: MachineConfig, request: Request) -> None:
    """Check the machine and the inputs, and spare the job what the step does not need."""
    require_hardware(job.hardware)
    require_inputs(request.verb, job)
    for name, value in (
        load_backend(job.hardware.backend).environment(deterministic=job.deterministic).items()
    ):
        os.environ.setdefault(name, value)
    if isinstance(job, (PretrainJob, SftJob, RlJob)):
        job.log_every_steps = 1  # the step ends when it is reported
    if isinstance(job, SftJob):
        job.num_questions = 1  # answered before training, for the report of a whole run


def _run(
    request: Request,
    job: MachineConfig,
    machine: Machine,
    runtime: Runtime,
    strategy: TracedStrategy,
    sink: StepSink,
) -> None:
    stage = stage_of(request.verb)
    traced = replace(runtime, new_strategy=lambda: strategy)
    parts = {"runtime": lambda: traced, "engine": lambda: machine.engine}
    with tempfile.TemporaryDirectory(prefix="portable-trace-") as folder:
        workspace = Workspace(Path(folder), sink)
        try:
            load_target(stage.target)(job, *(parts[name]() for name in stage.needs), workspace)
        except StepTraced:
            return
        except DivergedError as error:  # a loss that is no number is what somebody may be looking for
            if strategy.done:
                logger.warning("the traced step: %s", error)
                return
            raise
    raise ConfigError(f"--step={request.step}, but the job ended before; name a step that it has")


def _describe_request(request: Request) -> dict[str, Any]:  # Any: JSON values
    return {**asdict(request), "overrides": list(request.overrides)}


def _describe_run(job: MachineConfig, runtime: Runtime) -> dict[str, Any]:  # Any: JSON values
    return {
        "hardware": runtime.hardware.name,
        "device": describe_device(runtime.device.name),
        "precision": runtime.precision.name,
        "compute_dtype": runtime.precision.compute_dtype.name,
        "deterministic": job.deterministic,
        "kernels": [asdict(choice) for choice in runtime.kernels.trace],
        "versions": package_versions(),
        "git_revision": git_revision(),
    }


def request_of(recording: Recording) -> Request:
    """Return which step a recording is of."""
    header = recording.header
    return Request(
        header["verb"],
        tuple(header["overrides"]),
        header["step"],
        header["micro_batch"],
        header["config_dir"],
    )
