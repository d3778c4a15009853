"""The house, held to its own rules. That each can fail is shown in ``tests/architecture/test_rules.py``."""

from pathlib import Path

import pytest

from tests.architecture.rules import RULES
from tests.architecture.start import heavy_after_help, outside_standard_library
from tests.architecture.tree import SourceTree

ROOT = Path(__file__).parent.parent
TREE = SourceTree(ROOT)


@pytest.mark.parametrize("name", RULES)
def test_house_keeps_rule(name: str):
    violations = RULES[name](TREE)
    assert not violations, "\n" + "\n".join(map(str, violations))


def test_tree_is_really_read():
    """An empty tree keeps every rule; make sure this one is not empty."""
    names = {file.name for file in TREE.files("portable")}
    assert {"portable/core/errors.py", "portable/cli/main.py", "portable/train/trainer.py"} <= names
    assert {file.name for file in TREE.files("backends")} >= {"backends/cpu/backend.py"}
    assert len(list((ROOT / "conf").rglob("*.yaml"))) > 20


def test_import_portable_loads_the_standard_library_only(tmp_path: Path):
    assert outside_standard_library(ROOT, tmp_path / "modules.json") == set()


def test_help_loads_nothing_heavy(tmp_path: Path):
    assert heavy_after_help(ROOT, tmp_path / "modules.json") == set()
