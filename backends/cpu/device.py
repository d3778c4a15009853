"""The CPU as a device: one per process, whatever its index."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch

from backends.cpu.memory import PeakMeter, total_and_free_bytes, used_bytes
from backends.cpu.processor import COMMUNICATOR, cpu_title, usable_cores
from portable.device.protocol import Capability, DeviceInfo, Dtype, Feature, Memory, Support

_GPU_ENGINE = "{name} runs on accelerators only here; use engine=native or engine=hf on a CPU"


class CpuDevice:
    """Processes share the processor: every index is the same device, and there is nothing to wait for."""

    name = "cpu"
    torch_type = "cpu"

    def __init__(self) -> None:
        self._peak = PeakMeter()

    @cached_property
    def vendor(self) -> str:
        """The maker's name, from the processor's title."""
        title = cpu_title().lower()
        known = {"amd": "amd", "intel": "intel", "kunpeng": "huawei", "hisilicon": "huawei", "apple": "apple"}
        return next((vendor for word, vendor in known.items() if word in title), platform.machine())

    @cached_property
    def arch(self) -> str:
        """The widest instruction set that torch uses here, e.g. ``avx512``."""
        level = torch.backends.cpu.get_cpu_capability().lower()
        return platform.machine() if level == "default" else level

    def count(self) -> int:
        """Return 1."""
        return 1

    def torch_device(self, index: int = 0) -> torch.device:
        """Return the one CPU device."""
        return torch.device("cpu")

    def set_index(self, index: int) -> None:
        """Do nothing: the system places processes on cores."""

    def info(self, index: int = 0) -> DeviceInfo:
        """Describe the processor and its memory."""
        return DeviceInfo(cpu_title(), self.vendor, self.arch, usable_cores(), total_and_free_bytes()[0])

    def capability(self) -> Capability:
        """Return what torch can do on this processor."""
        can_distribute = torch.distributed.is_available()
        no_peers = "" if can_distribute else "this build of torch has no torch.distributed; install another"
        return Capability(
            matmul_dtypes=_matmul_dtypes(),
            features=_features(),
            reduce_ops=("sum", "max", "min"),
            communicator=COMMUNICATOR,
            strategies={"single": "", "ddp": no_peers, "fsdp": no_peers},
            engines={
                "native": "",
                "hf": "",
                "vllm": _GPU_ENGINE.format(name="vLLM"),
                "lmdeploy": _GPU_ENGINE.format(name="LMDeploy"),
            },
        )

    def supports(self, feature: Feature) -> bool:
        """Return whether the processor has ``feature``."""
        return self.capability().supports(feature)

    def synchronize(self) -> None:
        """Return at once: work on the CPU is done when its call returns."""

    def memory(self, index: int = 0) -> Memory:
        """Return figures in bytes; used and peak are this process's resident memory."""
        total, free = total_and_free_bytes()
        return Memory(
            total_bytes=total, free_bytes=free, used_bytes=used_bytes(), peak_bytes=self._peak.read()
        )

    def reset_peak_memory(self) -> None:
        """Start counting the peak anew."""
        self._peak.reset()

    def seed(self, seed: int) -> None:
        """Seed torch's host generator, which is this device's."""
        torch.manual_seed(seed)

    def rng_state(self) -> Any:  # Any: opaque by the Protocol
        """Return the generator's state."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Any) -> None:  # Any: opaque by the Protocol
        """Restore it."""
        torch.set_rng_state(state)

    def generator(self, seed: int) -> torch.Generator:
        """Return a fresh stream."""
        return torch.Generator().manual_seed(seed)

    def autocast(self, dtype: Dtype) -> AbstractContextManager[None]:
        """Run matmuls in ``dtype`` inside the block."""
        return contextlib.nullcontext() if dtype is Dtype.fp32 else _autocast(dtype)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:  # Any: any signature
        """Compile with torch's C++ back end where a compiler is installed."""
        return torch.compile(function) if self.supports(Feature.compile) else function


@contextlib.contextmanager
def _autocast(dtype: Dtype) -> Generator[None, None, None]:
    with torch.autocast("cpu", dtype=dtype.torch()):
        yield


def _matmul_dtypes() -> dict[str, Support]:
    """16-bit formats are native where the instruction set has them, and right but slow elsewhere."""
    has = torch.cpu.get_capabilities()

    def native(*instructions: str) -> Support:
        return Support.native if any(has.get(name) for name in instructions) else Support.emulated

    return {
        "fp32": Support.native,
        "bf16": native("avx512_bf16", "amx_bf16", "bf16"),
        "fp16": native("avx512_fp16", "amx_fp16", "fp16"),
    }


def _features() -> tuple[Feature, ...]:
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    has_compiler = any(shutil.which(name) for name in compilers if name)
    return (Feature.float64, Feature.compile) if has_compiler else (Feature.float64,)
