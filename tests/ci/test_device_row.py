"""The row about a run on hardware."""

import pytest

from ci import device_row
from ci.device_row import BEGIN, END, counts, main, with_row

PAGE = f"before\n{BEGIN}\n| backend | chip | result |\n|---|---|---|\n| cuda | 1 x A | old |\n{END}\nafter\n"
RESULTS = '<testsuites><testsuite tests="{}" failures="1" errors="1" skipped="2"/></testsuites>'


def write(tmp_path, tests):
    results, page = tmp_path / "results.xml", tmp_path / "support.md"
    results.write_text(RESULTS.format(tests))
    page.write_text(PAGE)
    return str(results), str(page)


def test_a_row_joins_the_table_and_replaces_its_older_self():
    added = with_row(PAGE, "| cuda | 2 x B | new |")
    assert added.splitlines()[-5:-2] == ["|---|---|---|", "| cuda | 1 x A | old |", "| cuda | 2 x B | new |"]
    assert "old" not in with_row(PAGE, "| cuda | 1 x A | new |")
    assert added.startswith("before\n")
    assert added.endswith(f"{END}\nafter\n")
    with pytest.raises(ValueError, match="no table between"):
        with_row("nothing marked", "| a | b |")


def test_results_are_counted(tmp_path):
    write(tmp_path, 10)
    assert counts(tmp_path / "results.xml") == {"passed": 6, "failed": 2, "skipped": 2}


def test_a_run_is_written_with_what_the_probe_found(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(device_row.EMULATED, raising=False)
    results, page = write(tmp_path, 10)
    assert main(["cpu", results, page]) == 0
    (line,) = [
        line for line in (tmp_path / "support.md").read_text().splitlines() if line.startswith("| cpu")
    ]
    assert "6 passed, 2 failed, 2 skipped" in line
    assert "usable cores" in line
    assert line in capsys.readouterr().out


def test_what_is_no_evidence_is_not_written(tmp_path, monkeypatch):
    results, page = write(tmp_path, 2)
    (tmp_path / "results.xml").write_text('<testsuites><testsuite tests="2" skipped="2"/></testsuites>')
    assert main(["cpu", results, page]) == 1
    monkeypatch.setenv(device_row.EMULATED, "Ascend910B2")
    write(tmp_path, 10)
    assert main(["cpu", results, page]) == 1
    assert (tmp_path / "support.md").read_text() == PAGE
    assert main([]) == 2
