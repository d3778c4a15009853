"""The emulated CANN runtime through torch_npu: memory, devices, streams, events, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.ascend_emulation

MIB = 1 << 20


def run_python(code: str, **variables: str) -> str:
    """Run ``code`` in a process of its own that also has ``variables``; returns what it printed last."""
    surroundings = {**os.environ, **variables}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=surroundings, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


def test_the_chip_introduces_itself(torch_npu: ModuleType) -> None:
    assert torch_npu.__version__.startswith("2.13.0")
    assert torch.npu.get_device_name(0) == os.environ["PORTABLE_ASCEND_SOC"]
    assert torch.npu.device_count() == int(os.environ["PORTABLE_ASCEND_DEVICES"])
    properties = torch.npu.get_device_properties(0)
    assert properties.total_memory == int(os.environ["PORTABLE_ASCEND_MEMORY"])
    assert properties.cube_core_num == int(os.environ["PORTABLE_ASCEND_CUBE_CORES"])


def test_memory_is_counted_and_comes_back(torch_npu: ModuleType) -> None:
    torch.npu.empty_cache()
    free, total = torch.npu.mem_get_info()
    x = torch.empty(64 * MIB, dtype=torch.uint8, device="npu")
    assert torch.npu.mem_get_info()[0] <= free - 64 * MIB
    del x
    torch.npu.empty_cache()
    assert torch.npu.mem_get_info() == (free, total)


def test_past_the_limit_is_out_of_memory_and_nothing_is_lost(torch_npu: ModuleType) -> None:
    _, total = torch.npu.mem_get_info()
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        torch.empty(total + 1, dtype=torch.uint8, device="npu")
    assert torch.ones(3, device="npu").sum().item() == 3


def test_expandable_segments(torch_npu: ModuleType) -> None:
    code = (
        "import torch, torch_npu\n"
        "xs = [torch.full((n << 18,), n, device='npu') for n in range(1, 9)]\n"
        "del xs[::2]\n"
        "more = torch.zeros(6 << 20, device='npu')\n"
        "print(int(sum(x.sum() for x in xs).item()))"
    )
    total = run_python(code, PYTORCH_NPU_ALLOC_CONF="expandable_segments:True")
    assert int(total) == (4 + 16 + 36 + 64) << 18


def test_visible_devices(torch_npu: ModuleType) -> None:
    code = "import torch, torch_npu; print(torch.npu.device_count())"
    assert run_python(code, ASCEND_RT_VISIBLE_DEVICES="1") == "1"
    assert run_python(code, ASCEND_RT_VISIBLE_DEVICES="1,0,99") == "2"
    assert run_python(code, ASCEND_RT_VISIBLE_DEVICES="") == "0"


def test_devices_hold_their_own_memory(torch_npu: ModuleType) -> None:
    x = torch.randn(5, device="npu:0")
    y = x.to("npu:1")
    assert y.device == torch.device("npu", 1)
    assert torch.equal(x.cpu(), y.cpu())
    with pytest.raises(RuntimeError, match="same device"):
        x + y
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(1, device=f"npu:{torch.npu.device_count()}")


def test_events_measure_the_host(torch_npu: ModuleType) -> None:
    start, end = torch.npu.Event(enable_timing=True), torch.npu.Event(enable_timing=True)
    start.record()
    torch.randn(200, 200, device="npu") @ torch.randn(200, 200, device="npu")
    end.record()
    end.synchronize()
    assert end.query()
    assert 0 < start.elapsed_time(end) < 60_000


def test_streams_wait_for_each_other(torch_npu: ModuleType) -> None:
    stream = torch.npu.Stream()
    with torch.npu.stream(stream):
        x = torch.ones(4, device="npu") * 2
    torch.npu.current_stream().wait_stream(stream)
    assert stream.query()
    assert x.sum().item() == 8


def test_what_is_not_emulated_names_itself(torch_npu: ModuleType) -> None:
    graph = torch.npu.NPUGraph()
    with torch.npu.stream(torch.npu.Stream()), pytest.raises(RuntimeError, match="aclmdlRICaptureBegin"):
        graph.capture_begin()


def test_another_chip(torch_npu: ModuleType) -> None:
    """On the 310P a bfloat16 operator raises, as torch_npu says it would."""
    code = (
        "import torch, torch_npu\n"
        "x = torch.ones(2).npu(); message = ''\n"
        "try: x.bfloat16()\n"
        "except NotImplementedError as error: message = str(error)\n"
        "print(torch.npu.get_device_name(0), torch.npu.is_bf16_supported(), 'has no bfloat16' in message)"
    )
    answer = run_python(code, PORTABLE_ASCEND_SOC="Ascend310P3", PORTABLE_ASCEND_BF16="0")
    assert answer == "Ascend310P3 False True"


def test_float64_does_not_reach_the_cube_unit(torch_npu: ModuleType) -> None:
    x = torch.ones(2, 2, dtype=torch.float64, device="npu")
    assert (x + x).dtype == torch.float64
    with pytest.raises(NotImplementedError, match="cube unit"):
        x @ x


def test_the_users_own_sitecustomize_still_runs(torch_npu: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.mine = 7\n")
    path = f"{os.environ['PYTHONPATH']}{os.pathsep}{tmp_path}"
    code = "import torch_npu, torch; print(mine, (torch.ones(2).npu() + 1).sum().item())"
    assert run_python(code, PYTHONPATH=path) == "7 4.0"
