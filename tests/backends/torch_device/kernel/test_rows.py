"""The GPUs' rows in plain torch run on the CPU's tensors as well: the same code, torch's other kernels."""

import pytest
import torch

from backends.torch_device.kernel.rows import MAX_HEAD_DIM, entries
from portable.kernel.conformance.check import check_row
from portable.kernel.op import complete_facts
from portable.kernel.registry import KernelSet

ROWS = {row.spec.id: row for row in entries("cuda")}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("op_id", ROWS)
def test_row_is_as_good_as_the_reference(op_id: str, dtype: str):
    report = check_row(ROWS[op_id], torch.device("cpu"), dtype)
    assert report.num_run > 0
    assert report.passed, "\n".join(f"{result.case}: {result.reason}" for result in report.failures)


@pytest.mark.parametrize(
    ("op_id", "facts", "reason"),
    [
        ("attention", {"window": 128}, "window"),
        ("attention", {"sink": True}, "sink"),
        ("attention", {"head_dim": MAX_HEAD_DIM + 1}, str(MAX_HEAD_DIM)),
        ("decode_attention", {"sink": True}, "sink"),
    ],
)
def test_row_refuses_what_torch_does_not_fuse(op_id: str, facts: dict[str, object], reason: str):
    row = ROWS[op_id]
    assert row.refusal("bf16", complete_facts(row.spec, {})) == ""
    assert reason in row.refusal("bf16", complete_facts(row.spec, facts))


@pytest.mark.parametrize("backend", ["cuda", "rocm"])
def test_a_gpu_takes_torchs_attention_unless_there_is_a_window(backend: str):
    kernels = KernelSet(backend, "bf16")
    assert kernels.rank("attention", head_dim=128)[0].name == "sdpa"
    assert kernels.rank("attention", head_dim=128, window=64)[0].name != "sdpa"
