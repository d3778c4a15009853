"""Which files a source means, and which reader each gets."""

import pytest

from portable.core.errors import DataError
from portable.data.config import DataConfig
from portable.data.format.html import read_html
from portable.data.format.jsonl import read_jsonl
from portable.data.format.markdown import read_markdown
from portable.data.format.parquet import read_parquet
from portable.data.format.reader import ending_of, find_files, format_of, name_within, read_source
from portable.data.format.text import read_text


@pytest.fixture
def tree(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.md", "sub/deep/d.txt", "sub/e.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    return tmp_path


def _names(tree, source):
    return [file.removeprefix(f"{tree}/") for file in find_files(source)]


def test_a_file_a_glob_a_folder(tree):
    assert _names(tree, f"{tree}/a.txt") == ["a.txt"]
    assert _names(tree, f"{tree}/*.txt") == ["a.txt", "b.txt"]
    assert _names(tree, f"{tree}/**/*.txt") == ["a.txt", "b.txt", "sub/deep/d.txt"]
    assert _names(tree, str(tree)) == ["a.txt", "b.txt", "sub/c.md", "sub/deep/d.txt"]


def test_relative_paths_and_urls(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert [file.removeprefix(f"{tree}/") for file in find_files("*.txt")] == ["a.txt", "b.txt"]
    assert find_files(f"file://{tree}/a.txt") == [f"file://{tree}/a.txt"]


@pytest.mark.parametrize("source", ["nothing.txt", "*.csv", "python_doc"])
def test_no_match_lists_what_would_work(tree, source):
    with pytest.raises(DataError, match="matches no file") as caught:
        find_files(f"{tree}/{source}")
    assert "python_docs" in str(caught.value)
    assert ".jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("a.txt", read_text),
        ("a.TXT.gz", read_text),
        ("x/b.md", read_markdown),
        ("b.html", read_html),
        ("c.jsonl.zst", read_jsonl),
        ("c.ndjson", read_jsonl),
        ("d.parquet", read_parquet),
    ],
)
def test_endings_choose_readers(name, reader):
    assert format_of(name) is reader


def test_an_unknown_ending_lists_the_known_ones():
    with pytest.raises(DataError, match=r"ending '\.doc'.*\.jsonl"):
        format_of("a.doc")
    assert ending_of("noending") == ""


def test_documents_come_in_order_of_names(tree, recorder):
    documents = list(read_source(DataConfig(source=f"{tree}/**/*.txt"), recorder))
    assert [document.text for document in documents] == [
        "text of a.txt",
        "text of b.txt",
        "text of sub/deep/d.txt",
    ]


def test_a_registered_source_is_read_by_name(recorder):
    config = DataConfig(source="python_docs")
    assert next(iter(read_source(config, recorder))).metadata["source"] == "python_docs"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("sub/deep/d.txt", "d.txt"),
        ("sub/deep", "d.txt"),
        ("sub/deep/*.txt", "d.txt"),
        ("sub", "deep/d.txt"),
        ("**/*.txt", "sub/deep/d.txt"),
        ("s[tu]b/*/d.txt", "sub/deep/d.txt"),
    ],
)
def test_names_are_those_below_the_source(tree, monkeypatch, source, name):
    monkeypatch.chdir(tree)
    for where in (source, f"{tree}/{source}", f"file://{tree}/{source}"):
        (file,) = [file for file in find_files(where) if file.endswith("d.txt")]
        assert name_within(file, where) == name


def test_moving_the_files_changes_no_document(tree, recorder):
    before = list(read_source(DataConfig(source=str(tree / "sub")), recorder))
    (tree / "elsewhere").mkdir()
    (tree / "sub").rename(tree / "elsewhere" / "moved")
    assert list(read_source(DataConfig(source=str(tree / "elsewhere" / "moved")), recorder)) == before
