"""A page's main text, without what surrounds it."""

from portable.data.config import DataConfig
from portable.data.format.html import read_html
from portable.data.format.reader import SourceFile

PARAGRAPH = "The lighthouse keeper wrote down the weather every evening, and the book was never empty again."
PAGE = f"""<html><head><title>Light</title>
<meta charset="{{charset}}"><script>var x = 1;</script></head><body>
<nav><a href="/">Home</a> <a href="/about">About</a></nav>
<article><h1>The lighthouse</h1><p>{PARAGRAPH}</p><p>Ce n'était pas un café. {PARAGRAPH}</p></article>
<footer>Copyright, cookies, imprint</footer></body></html>"""


def _read(tmp_path, recorder, raw):
    (tmp_path / "a.html").write_bytes(raw)
    return list(
        read_html(SourceFile(str(tmp_path / "a.html"), "in/a"), DataConfig(source="*.html"), recorder)
    )


def test_the_main_text_is_kept_and_the_rest_is_not(tmp_path, recorder):
    (document,) = _read(tmp_path, recorder, PAGE.format(charset="utf-8").encode())
    assert document.text.count(PARAGRAPH) == 2
    assert "var x" not in document.text
    assert "imprint" not in document.text
    assert document.metadata["format"] == "html"


def test_the_page_declares_its_encoding(tmp_path, recorder):
    (document,) = _read(tmp_path, recorder, PAGE.format(charset="iso-8859-1").encode("latin-1"))
    assert "était pas un café" in document.text


def test_a_page_without_text_is_set_aside(tmp_path, recorder):
    assert _read(tmp_path, recorder, b"<html><body></body></html>") == []
    assert recorder.rows[0][2] == "no main text found in the page"
