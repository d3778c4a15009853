"""Compile for a GPU that is not there: ``python -m tests.backends.triton.offline sm_90 bf16``.

The rows are called with the CPU's tensors, and what they would launch is compiled for the arch as they would
launch it, to the machine's code, and not run. Prints one line of JSON for every binary.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from backends.triton import tuning
from tests.backends.triton.calls import calls

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_NUM_UNITS = 132  # of an H100; it decides grids, not code


class _Driver:
    """What Triton asks of a GPU's driver before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_for(arch: str, dtype: str) -> Iterator[dict[str, Any]]:  # Any: numbers and names, by name
    """Compile what the rows launch on ``arch``; yield what is known of every binary."""
    maker = "cuda" if arch.startswith("sm_") else "rocm"
    machine = tuning.machine_of(maker, arch, _NUM_UNITS)
    target = (
        GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
        if maker == "cuda"
        else GPUTarget("hip", arch, machine.limits.warp_size)
    )
    driver.set_active(_Driver(target))
    tuning.machine = lambda device: machine
    binaries: dict[str, tuple[str, Any]] = {}  # Any: Triton's compiled kernels
    launch = JITFunction.run

    # Any: what a launch takes
    def compile_only(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **meta: Any) -> Any:
        compiled = launch(kernel, *args, grid=grid, warmup=True, **meta)
        binaries.setdefault(compiled.hash, (f"{kernel.fn.__module__}:{kernel.fn.__name__}", compiled))
        return compiled

    JITFunction.run = compile_only
    known: set[str] = set()
    for call, run in calls(DTYPES[dtype]):
        run()
        for key in binaries.keys() - known:
            name, compiled = binaries[key]
            spilled = _spilled_bytes(compiled)
            yield {
                "call": call,
                "kernel": name,
                "shared_bytes": compiled.metadata.shared,
                "spilled_bytes": spilled,
            }
        known |= binaries.keys()


def _spilled_bytes(compiled: Any) -> int:
    """Return the local memory of a thread, to which registers are spilled. Any: as above."""
    if "amdgcn" in compiled.asm:
        (size,) = re.findall(r"\.private_segment_fixed_size:\s+(\d+)", compiled.asm["amdgcn"])
        return int(size)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (size,) = re.findall(r"STACK:(\d+)", text)
    return int(size)


if __name__ == "__main__":
    for binary in compile_for(*sys.argv[1:]):
        print(json.dumps(binary), flush=True)
