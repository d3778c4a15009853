"""Notebooks: cells share their names, magics are no Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from portable.lint.finding import Finding
from portable.lint.fix.apply import mend
from portable.lint.run import lint_file
from portable.lint.settings import Settings


def notebook(tmp_path: Path, *cells: str | list[str], language: str = "python") -> Path:
    path = tmp_path / "a.ipynb"
    listed = [{"cell_type": "markdown", "source": ["model.cuda()"]}]
    listed += [{"cell_type": "code", "source": cell} for cell in cells]
    path.write_text(json.dumps({"cells": listed, "metadata": {"kernelspec": {"language": language}}}))
    return path


def findings(path: Path) -> list[Finding]:
    return list(lint_file(path, Settings()).findings)


def test_names_of_one_cell_are_known_in_the_next(tmp_path: Path):
    path = notebook(tmp_path, ["import torch as t\n", "x = 1"], "\nt.cuda.synchronize()")
    (finding,) = findings(path)
    assert (finding.cell, finding.span.line, finding.rule) == (2, 2, "P02")
    assert finding.place == f"{path}:cell 2:2:1"


def test_magics_and_await(tmp_path: Path):
    path = notebook(
        tmp_path,
        "%matplotlib inline\n!pip install torch\nfiles = !ls\nx?\nx = 7 % 2\nawait f()\ny.cuda()",
        "%%bash\nmodel.cuda()",
        "%%time\nmodel.cuda()",
        "if a:\n    %time f()\n    z.cuda()",
    )
    assert [(item.cell, item.span.line) for item in findings(path)] == [(1, 7), (4, 3)]


def test_a_damaged_cell_hides_no_other(tmp_path: Path):
    path = notebook(tmp_path, "a.cuda()", "b =\n\n", "c.cuda()  # portable: ignore", "d.cuda()")
    assert [(item.cell, item.rule) for item in findings(path)] == [(1, "P01"), (2, "E001"), (4, "P01")]


def test_other_languages_are_left_alone(tmp_path: Path):
    assert findings(notebook(tmp_path, "library(torch)", language="R")) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"cells": [{}]}', '{"cells": 3}', '"x"', '{"metadata": []}']
)
def test_damaged_notebooks(tmp_path: Path, text: str):
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    assert [item.rule for item in findings(path)] == ["E001"]


def test_notebooks_are_not_mended(tmp_path: Path):
    path = notebook(tmp_path, "import torch\ndevice = torch.device('cuda')\nx.cuda()")
    assert findings(path)
    assert mend(path, Settings()) is None
