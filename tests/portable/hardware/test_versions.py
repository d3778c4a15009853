import pytest

from portable.core.errors import ConfigError
from portable.hardware.versions import check_versions, read_version_tables

TEXT = """
- subject: a chip's software
  rows:
    - needs: {plugin: "==2.13.*", torch: "==2.13.*", runtime: ">=9.1"}
      assumed: [runtime]
      source: a table
      remedy: {torch: pip install torch==2.13.0}
    - needs: {plugin: "==2.12.*", torch: "==2.12.*", runtime: ">=9.1,<9.2"}
      source: another table
    - needs: {plugin: "==2.12.*", torch: "==2.12.*", runtime: ">=8.3rc1,<9"}
      source: an older table
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "versions.yaml"
    file.write_text(TEXT)
    return read_version_tables(file)[0]


def test_versions_that_agree(table):
    answer = check_versions(table, {"plugin": "2.13.0", "torch": "2.13.0+cpu", "runtime": "9.1.0"})
    assert answer.agreed == ("plugin 2.13.0", "torch 2.13.0+cpu", "runtime 9.1.0")
    assert not answer.clashes
    assert not answer.unknown
    assert answer.source == "a table"


def test_a_clash_tells_why_and_what_to_do(table):
    (clash,) = check_versions(table, {"plugin": "2.13.0", "torch": "2.12.1"}).clashes
    assert (clash.name, clash.found, clash.wanted) == ("torch", "2.12.1", "==2.13.*")
    assert clash.because == "plugin 2.13.0"
    assert clash.remedy == "pip install torch==2.13.0"
    assert clash.certain


def test_an_assumed_range_is_no_certain_clash(table):
    (clash,) = check_versions(table, {"plugin": "2.13.0", "torch": "2.13.0", "runtime": "8.5.0"}).clashes
    assert not clash.certain
    assert clash.remedy == "install runtime >=9.1"


def test_the_nearest_row_of_the_anchor_answers(table):
    older = check_versions(table, {"plugin": "2.12.0", "torch": "2.12.0", "runtime": "8.3.RC1"})
    assert older.source == "an older table"
    assert not older.clashes
    first = check_versions(table, {"plugin": "2.12.0", "torch": "2.12.0", "runtime": "7.0"})
    assert first.source == "another table"
    # Torch alone fits the first row, but the anchor says which row is meant.
    (clash,) = check_versions(table, {"plugin": "2.12.0", "torch": "2.13.0", "runtime": "9.1.0"}).clashes
    assert clash.wanted == "==2.12.*"


def test_what_was_not_found_is_unknown_and_no_clash(table):
    answer = check_versions(table, {"plugin": "2.13.0", "torch": None})
    assert answer.unknown == ("torch", "runtime")
    assert not answer.clashes


def test_a_version_that_cannot_be_read_is_told(table):
    (clash,) = check_versions(table, {"plugin": "2.13.0", "runtime": "latest"}).clashes
    assert clash.found == "latest"


@pytest.mark.parametrize(
    "text", ["- rows: []", "{a: 1}", "- subject: x\n  rows: [{needs: {a: nonsense}, source: s}]"]
)
def test_what_is_no_table_is_refused_by_name(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_version_tables(file)
