"""Lines, JSON and tables about rows."""

import json

import torch

from portable.kernel.conformance.catalogue import cases_of
from portable.kernel.conformance.check import check_row
from portable.kernel.conformance.report import (
    Examined,
    failures,
    kernel_section,
    line,
    markdown,
    to_json,
    with_block,
)
from portable.kernel.entry import REFERENCE_ENTRIES, KernelEntry

CPU = torch.device("cpu")
DTYPES = ("fp32", "bf16", "fp16")
CASES = cases_of("swiglu")[:2]
RIGHT = REFERENCE_ENTRIES[[entry.op for entry in REFERENCE_ENTRIES].index("swiglu")]
WRONG = KernelEntry(
    op="swiglu", name="wrong", backend="cpu", target="portable.kernel.reference.activation:geglu_erf"
)


def examined(entry: KernelEntry) -> Examined:
    return Examined(entry, {dtype: check_row(entry, CPU, dtype, cases=CASES) for dtype in ("fp32", "bf16")})


def test_a_line_has_the_worst_error_by_format():
    text = line(examined(RIGHT), DTYPES)
    assert text.split() == ["fp32", "1.00", "bf16", "1.00", "fp16", "-", "4", "cases"]
    assert "fp32  2 FAILED" in line(examined(WRONG), DTYPES)


def test_failures_name_case_format_row_and_place():
    texts = failures(examined(WRONG))
    assert len(texts) == 4
    assert texts[0].startswith(
        "swiglu/plain in fp32, row wrong (portable.kernel.reference.activation:geglu_erf): "
    )
    assert failures(examined(RIGHT)) == []


def test_json_is_plain():
    records = json.loads(json.dumps(to_json([examined(RIGHT), examined(WRONG)])))
    assert [(record["row"], record["dtype"], record["passed"]) for record in records] == [
        ("reference", "fp32", True),
        ("reference", "bf16", True),
        ("wrong", "fp32", False),
        ("wrong", "bf16", False),
    ]
    assert set(records[2]["failed"]) == {"swiglu/plain", "swiglu/one_value"}


def test_a_table_takes_its_backend_s_place_and_leaves_the_others():
    page = "# Page\n\nText.\n\n## Run it\n\n    command\n"
    one = with_block(page, "cpu", markdown([examined(RIGHT)], DTYPES, "cpu: a chip"))
    assert one.index("## Run it") < one.index("## Kernels") < one.index("### cpu: a chip")
    assert "| swiglu | reference | 1.00 | 1.00 | - | 4 | 0 |" in one
    two = with_block(one, "sim", "### sim\n\nits table")
    assert two.startswith(one.rstrip())
    three = with_block(two, "cpu", "### cpu again")
    assert "### cpu: a chip" not in three
    assert three.count("## Kernels") == 1
    assert "### cpu again" in three
    assert "its table" in three
    assert with_block(three, "cpu", "### cpu again") == three


def test_the_section_of_kernels_ends_where_the_next_begins():
    page = with_block("# Page\n", "cpu", "table") + "\n## After\n\nmore\n"
    assert kernel_section(page).startswith("## Kernels\n")
    assert "## After" not in kernel_section(page)
    both = with_block(page, "sim", "other table")
    assert both.index("other table") < both.index("## After")
    assert kernel_section("# Page\n") == ""
