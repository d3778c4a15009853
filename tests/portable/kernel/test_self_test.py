"""The examination at start-up: what it demotes, what it says, what it remembers."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from backends.cpu.device import CpuDevice
from portable.core.errors import CapabilityError, PortableError
from portable.kernel import self_test
from portable.kernel.config import KernelConfig
from portable.kernel.entry import REFERENCE_ENTRIES, KernelEntry
from portable.kernel.op import OPS
from portable.kernel.reference import activation
from portable.kernel.registry import KernelSet
from portable.kernel.self_test import examine

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path / "cache"))
    CALLS.clear()


def right(gate, up):
    CALLS.append("right")
    return activation.swiglu(gate, up)


def slow(gate, up):
    CALLS.append("slow")
    time.sleep(0.005)
    return activation.swiglu(gate, up)


def wrong(gate, up):
    return activation.geglu_erf(gate, up)


def raising(gate, up):
    raise NotImplementedError("not on this chip")


def entry(function, priority: int = 10, **given) -> KernelEntry:
    target = f"{__name__}:{function.__name__}"
    return KernelEntry(
        op="swiglu", name=function.__name__, backend="cpu", target=target, priority=priority, **given
    )


def kernels(*entries: KernelEntry, dtype: str = "fp32", **config) -> KernelSet:
    return KernelSet("cpu", dtype, KernelConfig(**config), [*REFERENCE_ENTRIES, *entries])


def picked(found: KernelSet) -> str:
    return found.pick("swiglu").__name__


def test_a_wrong_row_is_demoted_and_the_next_one_examined(caplog):
    found = kernels(entry(wrong, 30), entry(raising, 20), entry(right))
    with caplog.at_level(logging.INFO):
        examine(found, CpuDevice(), timed=False)
    assert picked(found) == "right"
    assert {row.name for row in found.demoted} == {"wrong", "raising"}
    assert "swiglu/plain: output 0" in found.demoted[entry(wrong, 30)]
    assert "NotImplementedError: not on this chip" in found.demoted[entry(raising, 20)]
    assert "portable verify kernels --op swiglu --row wrong" in caplog.text
    assert "kernels: 3 rows examined in" in caplog.text
    (choice,) = [choice for choice in found.trace if choice.op == "swiglu"]
    assert any("wrong: it is wrong here" in text for text in choice.passed_over)


def test_what_is_below_the_row_that_is_taken_is_not_run():
    found = kernels(entry(right, 30), entry(wrong, 20))
    examine(found, CpuDevice(), timed=False)
    assert not found.demoted


def test_the_reference_is_the_last_resort():
    found = kernels(entry(wrong))
    examine(found, CpuDevice(), timed=False)
    assert picked(found) == "swiglu"


def test_a_slow_row_is_demoted_where_it_is_timed():
    found = kernels(entry(slow, 30), entry(right))
    examine(found, CpuDevice(), timed=False)
    assert picked(found) == "slow"
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "right"
    assert "ms here, right" in found.demoted[entry(slow, 30)]


def test_a_slow_row_falls_to_the_reference_too_unless_a_wrong_one_is_between():
    found = kernels(entry(slow, 30), entry(wrong, 20))
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "swiglu"
    assert {row.name for row in found.demoted} == {"slow", "wrong"}


def test_speed_is_remembered_and_correctness_is_not():
    examine(kernels(entry(slow, 30), entry(right)), CpuDevice(), timed=True)
    first = CALLS.count("slow")
    CALLS.clear()
    found = kernels(entry(slow, 30), entry(right))
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "right"
    assert 0 < CALLS.count("slow") < first


def test_what_is_remembered_holds_for_ops_that_the_budget_does_not_reach():
    examine(kernels(entry(slow, 30), entry(right)), CpuDevice(), timed=True)
    found = kernels(entry(slow, 30), entry(right))
    examine(found, CpuDevice(), timed=True, budget_s=0.0)
    assert picked(found) == "right"


def test_another_number_format_is_another_memory(tmp_path):
    for dtype in ("fp32", "bf16"):
        examine(kernels(entry(slow, 30), entry(right), dtype=dtype), CpuDevice(), timed=True)
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"verdicts": 3}', "\0"])
def test_a_damaged_memory_is_made_anew(tmp_path, content: str):
    examine(kernels(entry(slow, 30), entry(right)), CpuDevice(), timed=True)
    (file,) = (tmp_path / "cache" / "kernels").iterdir()
    file.write_text(content)
    found = kernels(entry(slow, 30), entry(right))
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "right"


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("PORTABLE_CACHE", str(blocked))
    found = kernels(entry(slow, 30), entry(right))
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "right"


def test_a_row_that_the_user_names_must_be_right_and_may_be_slow():
    found = kernels(entry(slow, 30), entry(right), rows={"swiglu": "slow"})
    examine(found, CpuDevice(), timed=True)
    assert picked(found) == "slow"
    found = kernels(entry(wrong), rows={"swiglu": "wrong"})
    examine(found, CpuDevice(), timed=True)
    with pytest.raises(CapabilityError, match=r"kernel.rows.swiglu=wrong cannot be used: it is wrong here"):
        found.pick("swiglu")


def test_all_ranks_take_the_verdicts_of_one():
    said: list[str] = []
    examine(
        kernels(entry(wrong)), CpuDevice(), timed=False, agree=lambda verdicts: said.extend(verdicts) or said
    )
    other = kernels(entry(wrong))
    examine(other, CpuDevice(), timed=False, budget_s=0.0, agree=lambda verdicts: said)
    assert [row.name for row in other.demoted] == ["wrong"]
    with pytest.raises(PortableError, match="the ranks have different rows"):
        examine(kernels(), CpuDevice(), timed=False, agree=lambda verdicts: said)


def test_the_budget_ends_the_examination_and_what_was_not_reached_is_told(caplog):
    found = kernels(entry(wrong))
    with caplog.at_level(logging.INFO):
        examine(found, CpuDevice(), timed=False, budget_s=0.0)
    assert not found.demoted
    assert "no time was left for rms_norm, " in caplog.text


def test_random_numbers_of_the_run_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    examine(kernels(entry(right)), CpuDevice(), timed=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.id)
def test_every_op_has_quick_cases_and_one_to_time(op):
    row = next(row for row in REFERENCE_ENTRIES if row.spec == op)
    assert len(self_test._quick_cases(row, "bf16")) >= 2
    assert self_test._case_named(op, self_test._TIMED) is not None
