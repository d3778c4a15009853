"""Text and JSON, counts, and one rule explained."""

from __future__ import annotations

import json
from dataclasses import replace

from portable.lint.report.plain import as_json, as_text, summary
from portable.lint.report.table import explain, rules_as_markdown, statistics
from portable.lint.rule import load_catalogue
from tests.portable.lint.example import findings

CODE = "if a:\n\tx.to('é', 1).cuda()\ny.cuda(\n    0)\n"


def test_text_marks_the_place():
    first, second = findings(CODE)
    shown = as_text([replace(first, remedy="Do."), replace(second, remedy="")])
    assert shown.splitlines() == [
        "example.py:2:2: P01 device named after a vendor: .cuda()",
        "    x.to('é', 1).cuda()",
        "    ^^^^^^^^^^^^^^^^^^^",
        "  → Do.",
        "example.py:3:1: P01 device named after a vendor: .cuda(...)",
        "    y.cuda(",
        "    ^^^^^^^",
    ]


def test_json():
    found = findings("device = make()\ndef f(device):\n    x.cuda()\n")
    content = json.loads(as_json(found, 3, ["a.py cannot be read"]))
    assert (content["files"], content["errors"]) == (3, ["a.py cannot be read"])
    (record,) = content["findings"]
    assert (record["path"], record["line"], record["column"], record["end_column"]) == (
        "example.py",
        3,
        5,
        13,
    )
    assert (record["rule"], record["severity"], record["fix"]) == ("P01", "error", "unsafe")
    assert "cell" not in record


def test_summary():
    assert summary([], 1) == "no findings in 1 file"
    found = findings("device = 'cuda'\nx.cuda()\ndef f(device):\n    x.cuda()\n")
    assert summary(found, 2) == "3 findings in 1 of 2 files; --fix mends 1; --unsafe-fixes mends 2"


def test_statistics():
    found = findings("x.cuda()\ny.pin_memory()\nz.cuda()\n")
    assert statistics(found, load_catalogue()).splitlines() == [
        "2  P01  device named after a vendor",
        "1  P19  pinned memory without asking",
    ]


def test_explanation_has_everything():
    rule = load_catalogue()["P01"]
    text = explain(rule)
    for part in (
        rule.title,
        rule.consequence,
        rule.remedy,
        rule.portable,
        *(code.split("\n")[0] for code in rule.bad),
    ):
        assert part in text


def test_table_has_a_row_for_each_rule():
    lines = rules_as_markdown(load_catalogue()).splitlines()
    assert len(lines) == 2 + len(load_catalogue())
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
