"""What a config would run with, said before anything runs."""

from __future__ import annotations

from portable.core.errors import PortableError
from portable.device.select import backend_names, load_backend
from portable.job.machine import look_for
from portable.job.schema import MachineConfig, RunJob
from portable.kernel.registry import KernelSet


def describe_choice(verb: str, job: MachineConfig) -> str:
    """Return a few lines that tell the choice.

    They name hardware, strategy, engine, precision, attention and communicator, and say whether it would run
    here.
    """
    hardware, precision = job.hardware, job.precision
    rows = {
        "verb": verb,
        "hardware": f"{hardware.name} ({hardware.title}), backend {hardware.backend}",
        "strategy": job.strategy.name,
        "engine": job.engine.name,
        "precision": (
            f"{precision.name}: parameters {precision.param_dtype.name}, "
            f"compute {precision.compute_dtype.name}"
        ),
        "attention": job.kernel.rows.get("attention", "the best row of the backend"),
        "communicator": f"{job.communicator.name}, timeout {job.communicator.timeout_s:g} s",
        "launcher": job.launcher.describe(),
        "usable here": _usable(job),
    }
    if isinstance(job, RunJob):
        rows["stages"] = " → ".join(job.stages)
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())


def _usable(job: MachineConfig) -> str:
    hardware = job.hardware
    if hardware.backend not in backend_names():
        findings = look_for(hardware)
        return f"no: looked for {findings.looked_for}; found {findings.found}"
    backend = load_backend(hardware.backend)
    probe = backend.probe()
    if not probe.usable:
        return f"no: looked for {probe.looked_for}; found {probe.found}"
    capability = backend.device().capability()
    for kind, name, table in (
        ("strategy", job.strategy.name, capability.strategies),
        ("engine", job.engine.name, capability.engines),
    ):
        reason = table.get(name, f"the backend does not know it; it has {', '.join(table)}")
        if reason:
            return f"no: {kind}={name}: {reason}"
    try:
        kernels = KernelSet(hardware.backend, job.precision.compute_dtype.name, job.kernel)
        for op in job.kernel.rows:
            kernels.pick(op)
    except PortableError as error:
        return f"no: {error}"
    return "yes"
