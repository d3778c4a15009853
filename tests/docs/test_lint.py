"""The page about the linter says what the linter says."""

from pathlib import Path

from portable.lint.report.table import rules_as_markdown
from portable.lint.rule import load_catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")


def test_the_table_of_rules_is_the_generated_one():
    assert rules_as_markdown(load_catalogue()) in PAGE
