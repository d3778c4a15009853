"""NVIDIA's driver, asked through ctypes.

Source: CUDA driver API (``cuda.h``): cuInit, cuDriverGetVersion, cuDeviceGetCount, cuDeviceGetName,
cuDeviceGetAttribute, cuDeviceTotalMem, cuGetErrorName.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from backends.cuda.capability import arch_of
from backends.torch_device.hardware_file import Chip

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class DriverAnswer:
    """What the driver said. ``cuda_version`` is the newest CUDA that it can run; ``error`` is "" for none."""

    cuda_version: str = ""
    chips: tuple[Chip, ...] = ()
    error: str = ""


def ask_driver(driver: ctypes.CDLL) -> DriverAnswer:
    """Start the driver and ask for its devices, as CUDA_VISIBLE_DEVICES leaves them."""
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if code := driver.cuInit(0):
        return DriverAnswer(f"{major}.{minor}", error=f"cuInit failed: {_error_name(driver, code)}")
    count = ctypes.c_int()
    if code := driver.cuDeviceGetCount(ctypes.byref(count)):
        return DriverAnswer(f"{major}.{minor}", error=f"cuDeviceGetCount failed: {_error_name(driver, code)}")
    return DriverAnswer(f"{major}.{minor}", tuple(_chip(driver, index) for index in range(count.value)))


def _chip(driver: ctypes.CDLL, index: int) -> Chip:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    memory = ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Chip(arch_of(major.value, minor.value), name.value.decode(errors="replace"), memory.value)


def _error_name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {code}"
