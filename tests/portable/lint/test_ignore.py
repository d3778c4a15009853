"""Comments that silence."""

from __future__ import annotations

import pytest

from portable.lint.ignore import find_ignores
from portable.lint.settings import Settings
from tests.portable.lint.example import findings, found

STRICT = Settings(strict_ignores=True)


@pytest.mark.parametrize(
    "code",
    [
        "x.cuda()  # portable: ignore[P01]",
        "x.cuda()  # portable: ignore",
        "x.cuda()  # portable: ignore [P04]",  # no ids right behind the word: everything
        "x.cuda()  #portable:ignore[ P01 ]",
        "x.cuda()  # portable: ignore[P01] - the driver's own test",
        "x.cuda()  # noqa: E501 # portable: ignore[P01]".replace("# noqa: E501 ", ""),
        "# portable: ignore-file[P01]\nx.cuda()",
        '"""Docstring."""\n\n# portable: ignore-file[P01]\nimport os\nx.cuda()\ny.cuda()',
        "# portable: ignore-file\nx.cuda()",
    ],
)
def test_silenced(code: str):
    assert found(code, STRICT) == []


@pytest.mark.parametrize(
    "code",
    [
        "x.cuda()  # portable: ignore[P04]",
        "x.cuda()  # portable: ignored",
        "x.cuda()  # portable: ignore-files[P01]",
        "x.cuda('# portable: ignore')",
        "# portable: ignore[P01]\nx.cuda()",
        "import os\n# portable: ignore-file[P01]\nx.cuda()",
        "x.cuda()\n'''\n# portable: ignore[P01]\n'''",
    ],
)
def test_not_silenced(code: str):
    assert "P01" in {rule for _, rule in found(code)}


def test_first_line_of_the_statement_and_ends_of_the_place_count():
    assert found("f(  # portable: ignore[P01]\n    1,\n    x.cuda(),\n)") == []
    assert found("f(\n    1,\n    x.cuda(),  # portable: ignore[P01]\n)") == []
    assert found("x.cuda(\n    non_blocking=True,\n)  # portable: ignore[P01]") == []
    assert found("f(\n    1,  # portable: ignore[P01]\n    x.cuda(),\n)") == [(3, "P01")]
    assert found("if a:  # portable: ignore[P01]\n    x.cuda()") == [(2, "P01")]
    assert found("if x.cuda():  # portable: ignore[P01]\n    x.cuda()") == [(2, "P01")]


def test_unused_comments_are_reported_on_demand():
    code = """
        x.cuda()  # portable: ignore[P01,P04]
        y = 1  # portable: ignore
        z = 2  # portable: ignore[P99]
        import torch  # portable: ignore[P01]
    """
    assert found(code) == []
    strict = findings(code, STRICT)
    assert [(item.span.line, item.rule) for item in strict] == [(n, "E002") for n in (1, 2, 3, 4)]
    assert "P04 is not found here" in strict[0].message
    assert "nothing is found here" in strict[1].message
    assert "there is no rule 'P99'" in strict[2].message
    assert strict[3].span.column == len("import torch  ")


def test_rules_that_are_switched_off_are_not_unused():
    code = "x.cuda()  # portable: ignore[P01]"
    assert found(code, Settings(ignore=("P01",), strict_ignores=True)) == []
    assert found(code, Settings(select=("P04", "E002"), strict_ignores=True)) == []


def test_a_text_without_such_comments_is_not_tokenized():
    assert find_ignores("x = (").comments == []
