"""Every op is asked everything that makes kernels fail; the references answer."""

import pytest
import torch

from portable.core.errors import CapabilityError
from portable.kernel.conformance.case import Layout
from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import check_row
from portable.kernel.conformance.oracle import expect
from portable.kernel.entry import REFERENCE_ENTRIES
from portable.kernel.op import OPS, complete_facts

CPU = torch.device("cpu")
IDS = [op.id for op in OPS]
WITHOUT = {  # what an op has no use for
    "expanded": {"adamw", "muon_step", "moe_unpermute", "decode_attention", "paged_attention"}
    | {"cross_entropy__vocab_parallel"},
    "swapped": {"nf4_dequantize"},
    "wide": {"moe_gate__sigmoid"},
    "invalid": {"cross_entropy__vocab_parallel"},
}


@pytest.mark.parametrize("op", IDS)
def test_every_op_is_asked_sizes_layouts_and_formats(op: str):
    cases = cases_of(op)
    names = " ".join(case.name for case in cases)
    assert len({case.name for case in cases}) == len(cases) >= 15
    for kind in ("no_", "one_", "large", "odd"):
        assert kind in names or op == "cross_entropy__vocab_parallel", f"{op} has no case of the kind {kind}"
    for layout in Layout:
        used = any(layout in case.layouts.values() for case in cases)
        assert used or op in WITHOUT.get(layout.name, set()) or layout is Layout.heads_first
    assert any("wide" in case.name for case in cases) or op in WITHOUT["wide"]
    assert any(case.invalid for case in cases) or op in WITHOUT["invalid"]
    assert any(case.repeated for case in cases)


@pytest.mark.parametrize("op", OPS, ids=IDS)
def test_facts_are_known_to_the_op(op):
    for case in cases_of(op.id):
        complete_facts(op, case.facts)


def test_an_unknown_op_has_no_cases():
    with pytest.raises(CapabilityError, match="no cases are written for 'softmax'"):
        cases_of("softmax")


@pytest.mark.parametrize("op", IDS)
def test_the_truth_is_float64_to_the_end(op: str):
    case = cases_of(op)[0]
    known = expect(case, "bf16", CPU)
    numbers = [x for x in known.truth.outputs if x.is_floating_point()]
    assert numbers
    assert all(x.dtype == torch.float64 for x in numbers)
    for name in case.leaves:
        assert known.truth.gradients[name].dtype == torch.float64


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("entry", REFERENCE_ENTRIES, ids=IDS)
def test_references_pass_their_own_examination(entry, dtype: str):
    report = check_row(entry, CPU, dtype)
    assert not report.failures
    assert report.num_refused == 0
    assert report.worst <= 1
