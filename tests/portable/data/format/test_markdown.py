"""Markdown stays Markdown; front matter and comments go."""

import pytest

from portable.data.config import DataConfig
from portable.data.format.markdown import read_markdown
from portable.data.format.reader import SourceFile


def _read(tmp_path, recorder, text):
    (tmp_path / "a.md").write_text(text)
    return list(
        read_markdown(SourceFile(str(tmp_path / "a.md"), "in/a"), DataConfig(source="a.md"), recorder)
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("---\ntitle: x\n---\n# Head\n\nText", "# Head\n\nText"),
        ("# Head\n\n---\n\nText\n\n---\n", "# Head\n\n---\n\nText\n\n---\n"),
        ("a <!-- hidden\nlines --> b", "a  b"),
        ("```html\n<!-- shown -->\n```\n<!-- hidden -->", "```html\n<!-- shown -->\n```\n"),
    ],
)
def test_what_stays_and_what_goes(tmp_path, recorder, before, after):
    (document,) = _read(tmp_path, recorder, before)
    assert document.text == after


def test_the_first_heading_is_the_title(tmp_path, recorder):
    (document,) = _read(tmp_path, recorder, "intro\n\n# The Title #\n\n# Other")
    assert document.metadata["title"] == "The Title"
    (document,) = _read(tmp_path, recorder, "no heading, #hash")
    assert document.metadata["title"] == ""


def test_other_bytes_are_set_aside(tmp_path, recorder):
    (tmp_path / "a.md").write_bytes(b"\xff")
    assert (
        list(read_markdown(SourceFile(str(tmp_path / "a.md"), "in/a"), DataConfig(source="a"), recorder))
        == []
    )
    assert len(recorder.rows) == 1
