"""CANN's runtime, asked through ctypes.

Source: CANN ``acl_rt.h``: aclrtGetDeviceCount, aclrtGetSocName; ``acl.h``: aclInit.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

_NOT_STARTED = 100_001  # ACL_ERROR_UNINITIALIZE
_VERSION_FILES = ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info")


@dataclass(frozen=True, slots=True)
class RuntimeAnswer:
    """What the runtime said: its name of the chip, and how many; ``error`` is "" for none."""

    soc_name: str = ""
    count: int = 0
    error: str = ""


def ask_runtime(runtime: ctypes.CDLL) -> RuntimeAnswer:
    """Ask for the devices, as ASCEND_RT_VISIBLE_DEVICES leaves them.

    The runtime is started only if it must be: a process starts it once, and torch_npu does it with settings.
    """
    count = ctypes.c_uint32()
    code = runtime.aclrtGetDeviceCount(ctypes.byref(count))
    if code == _NOT_STARTED:
        runtime.aclInit(None)
        code = runtime.aclrtGetDeviceCount(ctypes.byref(count))
    if code:
        return RuntimeAnswer(error=f"aclrtGetDeviceCount failed with {code}")
    runtime.aclrtGetSocName.restype = ctypes.c_char_p
    name = runtime.aclrtGetSocName() or b""
    return RuntimeAnswer(name.decode(errors="replace"), count.value)


def read_cann_version(home: Path | None) -> str | None:
    """Return the version that the toolkit at ``home`` (ASCEND_HOME_PATH) says it is; None if it is silent."""
    if home is None:
        return None
    for pattern in _VERSION_FILES:
        for file in sorted(home.glob(pattern)):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "version":
                    return value.strip()
    return None
