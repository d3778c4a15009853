"""What is known of the processor without torch."""

import hashlib
import os
import platform
from pathlib import Path

COMMUNICATOR = "gloo"
_NODES = Path("/sys/devices/system/node")


def cpu_title() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many cores this process may run on; a container may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def numa_nodes(folder: Path = _NODES) -> int:
    """Return how many parts of the machine have memory of their own; 1 where the system does not tell."""
    return max(1, sum(path.name[4:].isdigit() for path in folder.glob("node*")))


def num_threads() -> int:
    """Return how many threads a matmul of torch will use, as far as the environment says it."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdigit() and int(given) > 0 else usable_cores()


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return a short name that two processors share only if they know the same instructions."""
    words = [platform.machine(), platform.processor()]
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        # "flags" on x86, "Features" on Arm; the family and model decide how the compiler schedules.
        kinds = ("flags", "Features", "model", "cpu family", "CPU part", "CPU implementer")
        words += sorted({line.strip() for line in lines if line.startswith(kinds)})
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
