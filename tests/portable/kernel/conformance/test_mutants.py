"""Kernels that are wrong in one point fail conformance, which says where; their twins that are right pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from portable.core.errors import ShapeError
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import RowReport, check_row
from portable.kernel.entry import KernelEntry
from portable.kernel.op import OPS

CPU = torch.device("cpu")
OPS_BY_ID = {op.id: op for op in OPS}
MUTANTS = [
    # op, fault, dtype, a case that it fails, what is said of it
    ("rms_norm", "no eps", "fp32", "zeros", "nan instead of"),
    ("rms_norm", "no eps", "bf16", "equal_values", "times the error of the reference"),
    ("rms_norm", "eps outside the root", "fp32", "large_eps", "output 0"),
    ("rms_norm", "sums in bf16", "fp32", "plain", "output 0 without gradients"),
    ("rms_norm", "squares in 16 bits", "fp16", "large_values", "output 0"),
    ("rms_norm", "strides ignored", "fp32", "stepped", "output 0"),
    ("rms_norm", "constant weight", "fp32", "plain", "it gives no gradient to weight"),
    ("rms_norm", "random", "fp32", "large", "two calls differ"),
    ("rms_norm", "reads data", "fp32", "plain", "it gives no gradient"),
    ("rms_norm", "writes", "fp32", "plain", "it writes into its input x"),
    ("rms_norm", "float32", "bf16", "plain", "float32, not (2, 5, 64) bfloat16"),
    ("layer_norm", "unbiased variance", "bf16", "odd", "output 0"),
    ("rope__half", "sign", "bf16", "plain", "output 0"),
    ("rope__half", "pairing", "bf16", "plain", "output 0"),
    ("rope__half", "passing dims cleared", "bf16", "partial", "output 0"),
    ("swiglu", "naive exp", "bf16", "far_from_zero", "nan instead of"),
    ("attention", "top left", "bf16", "more_keys", "output 0"),
    ("attention", "top left", "fp32", "more_queries", "output 0"),
    ("attention", "window too wide", "bf16", "window_3", "output 0"),
    ("attention", "window too narrow", "bf16", "window_3", "output 0"),
    ("attention", "window open to the future", "bf16", "window_both_sides", "output 0"),
    ("attention", "no scale", "bf16", "plain", "output 0"),
    ("attention", "query head n reads key head n % K", "bf16", "plain", "output 0"),
    ("attention", "sink added to the output", "bf16", "sink", "output 0"),
    ("attention", "no maximum taken off", "fp32", "large_logits", "nan instead of"),
    ("attention", "nan where nothing is seen", "fp32", "more_queries", "nan instead of 0"),
    ("attention", "segments ignored", "bf16", "segments", "output 0"),
    ("attention__with_lse", "lse to base 2", "bf16", "plain", "output 1"),
    ("decode_attention", "reads behind the length", "bf16", "plain", "output 0"),
    ("cross_entropy", "counts ignored rows", "fp32", "plain", "output 0"),
    ("cross_entropy", "no maximum taken off", "fp32", "logits_far_apart", "inf instead of"),
    ("cross_entropy", "z not squared", "fp32", "z_loss", "output 0"),
    (
        "cross_entropy__vocab_parallel",
        "a third reduction",
        "fp32",
        "middle_shard",
        "it called: max, max, sum",
    ),
    ("adamw", "bias corrected by step - 1", "bf16", "second_step", "output"),
    ("adamw", "decay in the gradient", "fp32", "plain", "output"),
    ("adamw", "no decay", "bf16", "strong_decay", "output 0"),
    ("adamw", "eps in the root", "fp32", "large_eps", "output 0"),
    ("moe_permute", "not stable", "fp32", "one_expert_for_all", "output 0"),
    ("moe_unpermute", "sums in 16 bits", "bf16", "many_terms", "output 0"),
    ("moe_gate__softmax", "last of equals", "fp32", "equal_logits", "output 1"),
    ("int8_matmul", "truncated", "bf16", "plain", "output 0"),
    ("packed_matmul", "zero off by one", "bf16", "plain", "output 0"),
    ("packed_matmul", "sign bits of a word", "bf16", "4_bits", "output 0"),
    ("top_k_top_p", "drops the token that crosses", "fp32", "top_p", "-inf instead of"),
    ("top_k_top_p", "last of equals", "bf16", "equal_logits_top_k", "-inf instead of"),
]


def row(op: str, fault: str = "") -> KernelEntry:
    """Return an entry for a mutant, or for the twin that is right."""
    spec = OPS_BY_ID[op]
    return KernelEntry(
        op=spec.name,
        variant=spec.variant,
        name="mutant",
        backend="cpu",
        target=f"tests.portable.kernel.conformance.mutants:{op}/{fault}",
        differentiable=op not in ("int8_matmul", "adamw"),
    )


def ask(entry: KernelEntry, dtype: str, case: str) -> RowReport:
    """Ask one case of the op."""
    (found,) = [one for one in cases_of(entry.spec.id) if one.name == case]
    report = check_row(entry, CPU, dtype, cases=[found])
    assert report.num_run == 1
    return report


@pytest.mark.parametrize(("op", "fault", "dtype", "case", "says"), MUTANTS)
def test_a_wrong_kernel_fails_and_is_told_where(op: str, fault: str, dtype: str, case: str, says: str):
    report = ask(row(op, fault), dtype, case)
    assert [failure.case for failure in report.failures] == [f"{op}/{case}"]
    assert says in report.failures[0].reason


@pytest.mark.parametrize(
    ("op", "dtype", "case"), sorted({(op, dtype, case) for op, _, dtype, case, _ in MUTANTS})
)
def test_its_right_twin_passes_the_same_case(op: str, dtype: str, case: str):
    report = ask(row(op), dtype, case)
    assert not report.failures, report.failures[0].reason
    assert report.worst <= 4


def test_a_constraint_that_gives_no_reason_fails():
    for answer in (" ", True, None, 1):
        entry = replace(row("rms_norm"), constraint=lambda facts, answer=answer: answer)  # type: ignore[arg-type]
        report = check_row(entry, CPU, "fp32", cases=cases_of("rms_norm")[:1])
        assert "it owes a reason" in report.failures[0].reason


def test_a_constraint_that_raises_fails():
    entry = replace(row("rms_norm"), constraint=lambda facts: "" if facts["size"] > None else "no")  # type: ignore[operator]
    report = check_row(entry, CPU, "fp32", cases=cases_of("rms_norm")[:1])
    assert "its constraint raises: TypeError" in report.failures[0].reason


def test_a_refused_case_is_counted_and_its_reason_kept():
    entry = replace(row("rms_norm", "no eps"), constraint=lambda facts: f"size {facts['size']} is odd")
    report = check_row(entry, CPU, "fp32", cases=cases_of("rms_norm")[:3])
    assert report.passed
    assert (report.num_run, report.num_refused) == (0, 3)
    assert report.results[0].reason == "size 64 is odd"


def raises(*_: object, **__: object) -> None:
    """Stand for a kernel that its constraint should have kept from this case."""
    raise ValueError("64 is too many")


def test_accepting_what_then_raises_fails():
    entry = replace(row("rms_norm"), target=f"{__name__}:raises")
    report = check_row(entry, CPU, "fp32", cases=cases_of("rms_norm")[:1])
    assert report.failures[0].reason == "it raises: ValueError: 64 is too many"


def test_a_row_that_cannot_be_loaded_fails():
    entry = replace(row("rms_norm"), target="nowhere.at_all:kernel")
    report = check_row(entry, CPU, "fp32", cases=cases_of("rms_norm")[:1])
    assert "it cannot be loaded: ModuleNotFoundError" in report.failures[0].reason


def complains(*_: object, **__: object) -> None:
    """Complain as the reference does."""
    raise ShapeError("no")


def test_bad_input_must_raise_what_the_reference_raises():
    (case,) = [one for one in cases_of("rms_norm") if one.invalid]
    report = check_row(replace(row("rms_norm"), target=f"{__name__}:raises"), CPU, "fp32", cases=[case])
    assert "it raises ValueError; the reference raises ShapeError" in report.failures[0].reason
    report = check_row(replace(row("rms_norm"), target=f"{__name__}:complains"), CPU, "fp32", cases=[case])
    assert report.passed


def test_an_untrue_promise_of_gradients_is_found_and_an_honest_one_is_not():
    entry = row("rms_norm", "reads data")
    assert not ask(entry, "fp32", "plain").passed
    report = ask(replace(entry, differentiable=False), "fp32", "plain")
    assert "on tensors without data" in report.failures[0].reason


def test_a_row_may_say_that_it_is_not_deterministic():
    assert ask(replace(row("rms_norm", "random"), deterministic=False), "fp32", "large").passed
