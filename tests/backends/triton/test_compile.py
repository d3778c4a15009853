"""Every kernel compiles for every arch with a tuning table, to machine code, with the tiles of the table.

No GPU is needed for it; a compiled kernel has not run.
"""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from backends.triton.tuning import machine_of

pytestmark = pytest.mark.triton_interpreter

ARCHS = ("sm_80", "sm_90", "gfx942", pytest.param("gfx90a", marks=pytest.mark.slow))
OTHERS = ("sm_86", "sm_120", "gfx950")  # without a table of their own
MOST_SPILLED = 256  # of a thread's 1020 bytes of registers
FOLDER = Path(__file__).parents[3] / "backends" / "triton"


@cache
def compiled(arch: str, dtype: str) -> list[dict[str, Any]]:  # Any: see offline.py
    """Compile in a process of its own, where Triton is not its interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.backends.triton.offline", arch, dtype]
    done = subprocess.run(command, env=environment, cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def kernels_in_source() -> set[str]:
    """Return the functions that are launched: those compiled by Triton whose name says kernel."""
    return {
        f"backends.triton.{path.stem}:{node.name}"
        for path in FOLDER.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list and node.name.endswith("_kernel")
    }


def check(arch: str, dtype: str, most_spilled: int) -> None:
    binaries = compiled(arch, dtype)
    assert {binary["kernel"] for binary in binaries} == kernels_in_source()
    limit = machine_of("cuda" if arch.startswith("sm_") else "rocm", arch, 1).limits.on_chip_bytes
    too_large = [binary for binary in binaries if binary["shared_bytes"] > limit]
    assert not too_large, too_large
    spilling = [
        binary
        for binary in binaries
        if binary["spilled_bytes"] > most_spilled and not binary["call"].endswith("/1")
    ]
    assert not spilling, spilling


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_fit(arch: str):
    check(arch, "bf16", most_spilled=MOST_SPILLED)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_fit_in_every_format(arch: str, dtype: str):
    check(arch, dtype, most_spilled=2048)


@pytest.mark.slow
@pytest.mark.parametrize("arch", OTHERS)
def test_kernels_compile_and_fit_with_the_default_tiles(arch: str):
    check(arch, "bf16", most_spilled=1024)
