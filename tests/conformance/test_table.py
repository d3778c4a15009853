"""The page that reports are made into."""

import json

from portable.kernel.conformance.report import with_block
from tests.conformance.table import main, write_page

REPORT = {
    "device": "sim",
    "dtype": "float32",
    "num_ops": 1,
    "totals": {"exact": 3, "refused": 1},
    "torch": "2.13.0",
    "date": "2026-01-01",
    "ops": {"add": {"reasons": {"refused": {"function: RuntimeError: no 7": 1}}}},
    "command": "python -m tests.conformance.run sim",
}


def test_a_page_that_is_written_anew_keeps_its_section_about_kernels(tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(REPORT))
    page = tmp_path / "page.md"
    main(page, [str(file)])
    first = page.read_text()
    assert first == write_page([REPORT])
    assert "| sim | float32 | 1 | 4 | 3 (75.00%) |" in first
    page.write_text(with_block(first, "cpu", "### cpu\n\nits table"))
    with_kernels = page.read_text()
    main(page, [str(file)])
    assert page.read_text() == with_kernels
    assert "its table" in with_kernels
