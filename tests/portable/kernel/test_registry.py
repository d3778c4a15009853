import logging
from importlib.metadata import EntryPoint

import pytest

from portable.core.errors import BackendUnavailable, CapabilityError
from portable.kernel import registry
from portable.kernel.config import KernelConfig
from portable.kernel.reference.swiglu import swiglu
from portable.kernel.registry import REFERENCE_ENTRIES, KernelEntry, KernelSet, all_entries

FAST = KernelEntry(op="swiglu", name="fast", backend="toy", target="operator:mul")
FASTER = KernelEntry(
    op="swiglu", name="faster", backend="toy", target="operator:add", priority=5, dtypes=("bf16",)
)


def toy(dtype="fp32", backend="toy", **config):
    return KernelSet(backend, dtype, KernelConfig(**config), entries=[*REFERENCE_ENTRIES, FAST, FASTER])


def test_highest_priority_of_the_fitting_rows_wins():
    import operator

    assert toy("bf16").pick("swiglu") is operator.add
    assert toy("fp32").pick("swiglu") is operator.mul
    assert toy(backend="elsewhere").pick("swiglu") is swiglu


def test_rows_are_ranked_with_what_speaks_against_each():
    ranked = [(choice.name, choice.reason) for choice in toy("bf16").rank("swiglu")]
    assert ranked == [
        ("faster", ""),
        ("fast", "priority 0, below faster's 5"),
        ("reference", "priority -100, below faster's 5"),
    ]
    assert [choice.name for choice in toy("fp32").rank("swiglu")] == ["fast", "reference", "faster"]
    assert toy("fp32").rank("swiglu")[-1].reason == "the row takes bf16, not fp32"
    assert toy().rank("nothing") == []


def test_every_reference_row_loads():
    kernels = KernelSet("any", "fp32", entries=REFERENCE_ENTRIES)
    for entry in REFERENCE_ENTRIES:
        assert kernels.pick(entry.op).__name__ == entry.op
    assert [choice.name for choice in kernels.trace] == ["reference"] * len(REFERENCE_ENTRIES)


def test_named_row_is_taken_and_the_trace_says_why():
    kernels = toy("bf16", rows={"swiglu": "reference"})
    assert kernels.pick("swiglu") is swiglu
    kernels.pick("swiglu")
    kernels.pick("rms_norm")
    assert [(choice.op, choice.name) for choice in kernels.trace] == [
        ("swiglu", "reference"),
        ("rms_norm", "reference"),
    ]
    assert kernels.trace[0].reason == "named by kernel.rows"
    assert "priority" in kernels.trace[1].reason


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        (lambda: toy("fp32", rows={"swiglu": "faster"}), ["swiglu=faster", "takes bf16, not fp32"]),
        (lambda: toy(backend="other", rows={"swiglu": "fast"}), ["the row is for toy, this is other"]),
        (lambda: toy(rows={"swiglu": "fasst"}), ["no such row", "Did you mean 'fast'", "reference"]),
    ],
)
def test_named_row_that_does_not_fit_is_an_error_when_strict(kernels, words):
    with pytest.raises(CapabilityError) as caught:
        kernels().pick("swiglu")
    for word in words:
        assert word in str(caught.value)


def test_not_strict_falls_back_and_says_so(caplog):
    import operator

    with caplog.at_level(logging.WARNING):
        assert toy("fp32", rows={"swiglu": "faster"}, strict=False).pick("swiglu") is operator.mul
    assert "faster cannot be used" in caplog.text
    assert "taking fast" in caplog.text


def test_unknown_ops_are_named_with_the_nearest():
    with pytest.raises(CapabilityError, match=r"'swigloo'.*Did you mean 'swiglu'"):
        toy(rows={"swigloo": "fast"})
    with pytest.raises(CapabilityError, match=r"no kernel computes 'rms_nrom'.*rms_norm"):
        toy().pick("rms_nrom")


def test_op_without_a_fitting_row_is_an_error():
    only = KernelSet("other", "fp32", entries=[FAST])
    with pytest.raises(CapabilityError, match="no row of 'swiglu' fits other with fp32"):
        only.pick("swiglu")
    with pytest.raises(CapabilityError, match="cannot be used"):
        KernelSet("other", "fp32", KernelConfig(rows={"swiglu": "fast"}, strict=False), entries=[FAST]).pick(
            "swiglu"
        )


def test_installed_rows_are_found_by_entry_point():
    entries = all_entries()
    assert set(REFERENCE_ENTRIES) < set(entries)
    assert any(entry.backend == "cpu" and entry.op == "attention" for entry in entries)
    identities = [(entry.op, entry.backend, entry.name) for entry in entries]
    assert len(identities) == len(set(identities)), "two rows share a name"
    assert {entry.op for entry in entries} == {entry.op for entry in REFERENCE_ENTRIES}, (
        "a row without a meaning"
    )


def test_rows_that_cannot_be_loaded_break_only_their_own_backend(monkeypatch, caplog):
    points = [EntryPoint("gone", "no_such_package.rows:ENTRIES", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert KernelSet("cpu", "fp32").pick("swiglu") is swiglu
    assert "the kernel rows of 'gone' cannot be loaded (ModuleNotFoundError" in caplog.text
    with pytest.raises(BackendUnavailable, match="rows of 'gone'"):
        KernelSet("gone", "fp32")
