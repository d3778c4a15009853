"""DeepSpeed's compiled operators, built once a machine; a killed build must not block the next.

The folder is torch's, ``TORCH_EXTENSIONS_DIR`` or under the user's cache; it stays between runs.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

# pyright: reportPrivateUsage=false
# Where torch builds has no public name; every extension of DeepSpeed goes there.
from torch.utils.cpp_extension import _get_build_directory

from portable.core.errors import CapabilityError
from portable.core.storage import explain_os_errors
from portable.device.protocol import Device
from portable.parallel.strategies.deepspeed.engine import import_deepspeed

logger = logging.getLogger(__name__)
# torch takes its lock a moment before the compiler starts to work in the folder.
_START_S = 30.0
_HOST_OPTIMIZER, _FILES = "CPUAdamBuilder", "AsyncIOBuilder"
_COST = {_HOST_OPTIMIZER: "about a minute", _FILES: "about five minutes"}
_NEEDS = {_HOST_OPTIMIZER: "a C++ compiler and ninja", _FILES: "a C++ compiler, ninja and libaio's headers"}


def load_host_optimizer(device: Device) -> None:
    """Build, if need be, the optimiser that steps on the host. Raises: CapabilityError if it cannot."""
    _load(_HOST_OPTIMIZER, device)


def load_file_access(device: Device) -> None:
    """Build, if need be, what reads and writes disks. Raises: CapabilityError if it cannot."""
    _load(_FILES, device)


def _load(builder_name: str, device: Device) -> Any:
    import_deepspeed(device)
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    builder = accelerator.create_op_builder(builder_name)
    if builder is None or not builder.is_compatible(verbose=False):
        reason = "" if builder is None else f" ({builder.error_log})"
        raise CapabilityError(
            f"strategy=deepspeed cannot build its operator {builder_name} here{reason}; install "
            f"{_NEEDS[builder_name]}, or leave strategy.offload_* at none"
        )
    folder = Path(_get_build_directory(builder.name, verbose=False))
    with _one_builder(folder):
        remove_stale_lock(folder)
        if not any(folder.glob("*.so")):
            logger.info("DeepSpeed builds %s once, which takes %s", builder.name, _COST[builder_name])
        try:
            return builder.load(verbose=False)
        except RuntimeError as error:
            raise CapabilityError(
                f"strategy=deepspeed could not build its operator {builder_name} in {folder}: {error}; it "
                f"needs {_NEEDS[builder_name]}"
            ) from error


def remove_stale_lock(folder: Path) -> bool:
    """Remove the lock that a killed build left in ``folder``; torch would wait for it for ever.

    It is stale if it is older than a build takes to begin, and no process works in the folder.
    """
    lock = folder / "lock"
    try:
        age_s = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return False
    if age_s < _START_S or _has_worker(folder):
        return False
    with explain_os_errors(lock, "remove"):
        lock.unlink(missing_ok=True)
    logger.warning("removed %s, which a build that was killed left %.0f s ago", lock, age_s)
    return True


@contextmanager
def _one_builder(folder: Path) -> Generator[None]:
    """Let one of our processes on this machine build at a time; the system frees the lock of a killed one."""
    with (folder / "portable.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _has_worker(folder: Path) -> bool:
    """Whether a process has ``folder`` as its own, as a compiler's driver does."""
    wanted = str(folder.resolve())
    return any(process.info["cwd"] == wanted for process in psutil.process_iter(["cwd"]))
