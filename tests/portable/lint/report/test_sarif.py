"""SARIF 2.1.0: what the schema requires, and what code hosts read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from portable.lint.finding import Finding, Span
from portable.lint.report.sarif import as_sarif
from portable.lint.rule import load_catalogue
from tests.portable.lint.example import findings

CODE = "import torch\nx = 'é'; model.cuda()\nmodel.cuda()\nmodel.cuda()\nmore(\n    torch.load(p))\n"
LEVELS = {"none", "note", "warning", "error"}


def report(found: list[Finding], errors: tuple[str, ...] = ()) -> dict[str, Any]:
    return json.loads(as_sarif(found, load_catalogue(), errors))


def test_head():
    content = report([])
    assert content["version"] == "2.1.0"
    assert content["$schema"].endswith("sarif-schema-2.1.0.json")
    assert set(content) == {"$schema", "version", "runs"}
    assert len(content["runs"]) == 1
    assert content["runs"][0]["results"] == []  # present, though empty: the tool ran and found nothing


def test_rules_are_described():
    driver = report([])["runs"][0]["tool"]["driver"]
    assert driver["name"] == "portable lint"
    assert driver["semanticVersion"].count(".") == 2
    ids = [rule["id"] for rule in driver["rules"]]
    assert ids == list(load_catalogue())
    for rule in driver["rules"]:
        assert rule["defaultConfiguration"]["level"] in LEVELS
        for field in ("shortDescription", "fullDescription", "help"):
            assert rule[field]["text"], (rule["id"], field)
        assert all(isinstance(tag, str) for tag in rule["properties"]["tags"])


def test_results_point_at_rules_and_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    run = report(findings(CODE))["runs"][0]
    assert run["columnKind"] == "unicodeCodePoints"
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == 4
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in LEVELS
        assert result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["artifactLocation"] == {"uri": "example.py", "uriBaseId": "ROOT"}
        region = place["region"]
        assert 1 <= region["startLine"] <= region["endLine"]
        assert region["startColumn"] >= 1
        assert region["endLine"] > region["startLine"] or region["endColumn"] > region["startColumn"]
    assert run["originalUriBaseIds"]["ROOT"]["uri"] == tmp_path.as_uri() + "/"
    region = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 2, "startColumn": 10, "endLine": 2, "endColumn": 22}


def test_fingerprints_survive_a_move_and_tell_equals_apart():
    def marks(code: str) -> list[str]:
        results = report(findings(code))["runs"][0]["results"]
        return [item["partialFingerprints"]["primaryLocationLineHash"] for item in results]

    assert len(set(marks(CODE))) == 4
    assert marks(CODE) == marks("\n\n" + CODE.replace("    torch", "        torch"))


def test_files_that_could_not_be_read():
    (invocation,) = report([], ("a.py cannot be read: gone",))["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    (note,) = invocation["toolExecutionNotifications"]
    assert (note["level"], note["message"]["text"]) == ("error", "a.py cannot be read: gone")
    assert report([])["runs"][0]["invocations"][0]["executionSuccessful"] is True


def test_cells_and_paths_elsewhere():
    finding = Finding("/else where/a.ipynb", Span(3, 0, 3, 2), "P01", "error", "what", "instead", cell=2)
    (result,) = report([finding])["runs"][0]["results"]
    assert result["message"]["text"] == "what (cell 2, line 3). instead"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "file:///else%20where/a.ipynb"}
    assert place["region"] == {"startLine": 1}
