"""What ``portable doctor`` tells of the processor."""

from __future__ import annotations

from backends.cpu.processor import cpu_title, num_threads, numa_nodes, usable_cores
from portable.device.backend import Finding, Level
from portable.device.capability import Capability, Role, Support


def cpu_findings(capability: Capability) -> list[Finding]:
    """Return the processor's findings: threads, memory nodes, number formats, compiler."""
    cores, nodes = usable_cores(), numa_nodes()
    return [
        Finding(Level.good, "processor", f"{cpu_title()}, {cores} usable cores, {nodes} NUMA node(s)"),
        _threads(cores, num_threads()),
        *_memory_nodes(nodes),
        *_formats(capability),
        *_compiler(capability),
    ]


def _threads(cores: int, threads: int) -> Finding:
    if threads > cores:
        return Finding(
            Level.bad,
            "threads",
            f"OMP_NUM_THREADS={threads}, but this process may use {cores} cores; threads would wait for each "
            "other",
            f"export OMP_NUM_THREADS={cores}",
        )
    return Finding(Level.good, "threads", f"{threads} for each matmul")


def _memory_nodes(nodes: int) -> list[Finding]:
    if nodes == 1:
        return []
    text = f"{nodes} NUMA nodes; one process over all of them reads most of its memory from afar"
    remedy = "stay on one: numactl --cpunodebind=0 --membind=0 portable ..., or bind one process to each so"
    return [Finding(Level.note, "memory", text, remedy)]


def _formats(capability: Capability) -> list[Finding]:
    slow = [name for name in ("bf16", "fp16") if capability.dtype(Role.matmul, name) is not Support.native]
    if not slow:
        return []
    text = f"{' and '.join(slow)} matmuls are emulated on {capability.arch}: right, and slower than fp32"
    return [Finding(Level.note, "precision", text, "use precision=fp32")]


def _compiler(capability: Capability) -> list[Finding]:
    if capability.compile_backends:
        return []
    return [
        Finding(
            Level.note,
            "compiler",
            "no C++ compiler found, so nothing is compiled by torch",
            "install g++, or name one by CXX",
        )
    ]
