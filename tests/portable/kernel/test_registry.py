import logging
import operator
from importlib.metadata import EntryPoint

import pytest

from portable.core.errors import BackendUnavailable, CapabilityError, ConfigError
from portable.kernel import registry
from portable.kernel.config import KernelConfig
from portable.kernel.entry import REFERENCE_ENTRIES, KernelEntry
from portable.kernel.op import OPS
from portable.kernel.reference.activation import swiglu
from portable.kernel.registry import Choice, KernelSet, all_entries

FAST = KernelEntry(op="swiglu", name="toy_fast", backend="toy", target="operator:mul")
FASTER = KernelEntry(
    op="swiglu", name="toy_faster", backend="toy", target="operator:add", priority=5, dtypes=("bf16",)
)
RESTLESS = KernelEntry(
    op="swiglu", name="toy_restless", backend="toy", target="operator:sub", priority=9, deterministic=False
)
SMALL = KernelEntry(
    op="rms_norm",
    variant="add",
    name="toy_small",
    backend="toy",
    target="operator:mul",
    constraint=lambda facts: "" if (facts["size"] or 0) <= 64 else f"size {facts['size']} > 64",
)
HALF = KernelEntry(op="rope", variant="half", name="toy_half", backend="toy", target="operator:mul")
ROWS = [*REFERENCE_ENTRIES, FAST, FASTER, SMALL, HALF]


def toy(dtype="fp32", backend="toy", entries=ROWS, **config):
    return KernelSet(backend, dtype, KernelConfig(**config), entries=entries)


def name_of(kernels: KernelSet, op: str, variant: str = "standard", **facts) -> str:
    kernels.pick(op, variant, **facts)
    return kernels.trace[-1].name


def test_highest_priority_of_the_fitting_rows_wins():
    assert toy("bf16").pick("swiglu") is operator.add
    assert toy("fp32").pick("swiglu") is operator.mul
    assert toy(backend="elsewhere").pick("swiglu") is swiglu


def test_rows_are_ranked_with_what_speaks_against_each():
    ranked = [(choice.name, choice.reason) for choice in toy("bf16").rank("swiglu")]
    assert ranked == [
        ("toy_faster", ""),
        ("toy_fast", "priority 0, below toy_faster's 5"),
        ("reference", "priority -100, below toy_faster's 5"),
    ]
    assert [choice.name for choice in toy("fp32").rank("swiglu")] == ["toy_fast", "reference", "toy_faster"]
    assert toy("fp32").rank("swiglu")[-1].reason == "the row takes bf16, not fp32"


def test_every_op_has_a_reference_that_loads():
    kernels = KernelSet("any", "fp32", entries=REFERENCE_ENTRIES)
    for op in OPS:
        assert kernels.pick(op.name, op.variant).__name__ == op.target.partition(":")[2]
    assert [choice.op for choice in kernels.trace] == [op.id for op in OPS]
    assert {choice.name for choice in kernels.trace} == {"reference"}


def test_ids_are_unique_and_the_default_variant_has_the_plain_name():
    ids = [op.id for op in OPS]
    assert len(set(ids)) == len(ids)
    assert {"rms_norm", "rms_norm__add", "rope__half"} <= set(ids)


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


def test_the_trace_says_why_better_rows_of_this_backend_were_passed_over():
    kernels = toy()
    kernels.pick("swiglu")
    assert kernels.trace == [
        Choice(
            "swiglu",
            "toy_fast",
            "highest priority of the rows that fit",
            ("toy_faster: the row takes bf16, not fp32",),
        )
    ]


def test_a_constraint_looks_at_the_facts_and_its_reason_is_kept():
    assert name_of(toy(), "rms_norm", "add", size=64) == "toy_small"
    assert name_of(toy(), "rms_norm", "add") == "toy_small"  # unknown: nobody objects
    kernels = toy()
    assert name_of(kernels, "rms_norm", "add", size=65) == "reference"
    assert kernels.trace[0].passed_over == ("toy_small: size 65 > 64",)


def test_a_row_whose_package_is_missing_is_passed_over():
    needy = KernelEntry(
        op="swiglu", name="toy_needy", backend="toy", target="no_such:f", requires=("no_such_package",)
    )
    kernels = toy(entries=[*ROWS, needy], rows={"swiglu": "toy_needy"})
    with pytest.raises(CapabilityError, match="needs no_such_package, not installed"):
        kernels.pick("swiglu")


def test_order_goes_before_priority():
    assert name_of(toy("bf16", order=["toy_fast"]), "swiglu") == "toy_fast"
    assert name_of(toy("bf16", order=["ref*", "toy_*"]), "swiglu") == "reference"
    assert toy("bf16", order=["toy_fast"]).rank("swiglu")[1].reason == "behind toy_fast in kernel.order"
    kernels = toy("bf16", order=["toy_fast"])
    kernels.pick("swiglu")
    assert kernels.trace[0].reason == "first in kernel.order of the rows that fit"


def test_allow_and_deny_are_patterns():
    assert name_of(toy("bf16", deny=["toy_fast*"]), "swiglu") == "reference"
    assert name_of(toy("bf16", deny=["*er"]), "swiglu") == "toy_fast"
    assert name_of(toy("bf16", allow=["toy_half"]), "swiglu") == "reference"
    with pytest.raises(CapabilityError, match=r"kernel\.deny names it"):
        toy(deny=["toy_fast"], rows={"swiglu": "toy_fast"}).pick("swiglu")


def test_the_last_resort_cannot_be_denied():
    with pytest.raises(ConfigError, match=r"kernel\.deny names 'reference'"):
        KernelConfig(deny=["reference"])
    assert name_of(toy(deny=["*"]), "swiglu") == "reference"


@pytest.mark.parametrize("field", ["order", "allow", "deny"])
def test_a_pattern_that_names_no_row_is_an_error(field):
    with pytest.raises(CapabilityError, match=rf"kernel\.{field} names 'toy_fsat'.*Did you mean 'toy_fast'"):
        toy(**{field: ["toy_fsat"]})


def test_a_deterministic_run_passes_over_restless_rows():
    entries = [*ROWS, RESTLESS]
    assert name_of(toy(entries=entries), "swiglu") == "toy_restless"
    steady = KernelSet("toy", "fp32", entries=entries, deterministic=True)
    assert name_of(steady, "swiglu") == "toy_fast"
    assert "toy_restless: its result may change from call to call" in steady.trace[0].passed_over[0]


def test_a_demoted_row_is_passed_over_with_the_reason():
    kernels = toy("bf16")
    kernels.demoted[FASTER] = "it erred"
    assert name_of(kernels, "swiglu") == "toy_fast"
    assert kernels.trace[0].passed_over == ("toy_faster: it erred",)


def test_an_observer_sees_what_is_picked_and_stands_in_for_it():
    kernels, seen = toy(), []

    def observe(op, row, kernel):
        seen.append((op.id, row.name, kernel))
        return operator.truediv

    kernels.observer = observe
    assert kernels.pick("swiglu") is operator.truediv
    assert seen == [("swiglu", "toy_fast", operator.mul)]


def test_a_name_for_an_op_covers_its_variants_and_one_for_a_variant_only_that():
    kernels = toy(rows={"rope": "toy_half"})
    assert name_of(kernels, "rope", "half") == "toy_half"
    assert name_of(kernels, "rope", "interleave") == "reference"  # it has no such row
    assert name_of(toy(rows={"rms_norm__add": "reference"}), "rms_norm", "add") == "reference"
    with pytest.raises(CapabilityError, match="no such row"):
        toy(rows={"rope": "toy_hlaf"}).pick("rope", "half")


@pytest.mark.parametrize(
    ("kernels", "words"),
    [
        (lambda: toy("fp32", rows={"swiglu": "toy_faster"}), ["swiglu=toy_faster", "takes bf16, not fp32"]),
        (lambda: toy(backend="other", rows={"swiglu": "toy_fast"}), ["the row is for toy, this is other"]),
        (lambda: toy(rows={"swiglu": "toy_fasst"}), ["no such row", "Did you mean 'toy_fast'", "reference"]),
    ],
)
def test_named_row_that_does_not_fit_is_an_error_when_strict(kernels, words):
    with pytest.raises(CapabilityError) as caught:
        kernels().pick("swiglu")
    for word in words:
        assert word in str(caught.value)


def test_not_strict_falls_back_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert toy("fp32", rows={"swiglu": "toy_faster"}, strict=False).pick("swiglu") is operator.mul
    assert "toy_faster cannot be used" in caplog.text
    assert "taking toy_fast" in caplog.text


def test_unknown_ops_variants_and_facts_are_named_with_the_nearest():
    with pytest.raises(CapabilityError, match=r"'swigloo'.*Did you mean 'swiglu'"):
        toy(rows={"swigloo": "toy_fast"})
    with pytest.raises(CapabilityError, match=r"no kernel computes 'rms_nrom'.*rms_norm"):
        toy().pick("rms_nrom")
    with pytest.raises(CapabilityError, match="rope has no variant 'standard'; it has half, interleave"):
        toy().pick("rope")
    with pytest.raises(CapabilityError, match=r"attention knows no fact 'head_dmi'.*'head_dim'"):
        toy().pick("attention", head_dmi=64)


def test_op_without_a_fitting_row_is_an_error():
    only = KernelSet("other", "fp32", entries=[FAST])
    with pytest.raises(CapabilityError, match="no row of 'swiglu' fits other with fp32"):
        only.pick("swiglu")
    lax = KernelSet("other", "fp32", KernelConfig(rows={"swiglu": "toy_fast"}, strict=False), entries=[FAST])
    with pytest.raises(CapabilityError, match="cannot be used"):
        lax.pick("swiglu")


def test_installed_rows_are_found_by_entry_point():
    entries = all_entries()
    assert set(REFERENCE_ENTRIES) < set(entries)
    assert any(entry.backend == "cpu" and entry.op == "attention" for entry in entries)
    identities = [(entry.op, entry.variant, entry.backend, entry.name) for entry in entries]
    assert len(identities) == len(set(identities)), "two rows share a name"
    for entry in entries:
        assert entry.spec.target, "a row without a meaning"


def test_rows_that_cannot_be_loaded_break_only_their_own_backend(monkeypatch, caplog):
    points = [EntryPoint("gone", "no_such_package.rows:ENTRIES", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert KernelSet("cpu", "fp32").pick("swiglu") is swiglu
    assert "the kernel rows of 'gone' cannot be loaded (ModuleNotFoundError" in caplog.text
    with pytest.raises(BackendUnavailable, match="rows of 'gone'"):
        KernelSet("gone", "fp32")
