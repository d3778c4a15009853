"""The python_docs source: order, sampling, stable ids."""

import pytest

from portable.core.errors import DataError
from portable.data.config import DataConfig, PythonDocsConfig
from portable.data.python_docs.package import find_modules
from portable.data.python_docs.source import read_package, read_python_docs


def _config(packages):
    return DataConfig(source="python_docs", python_docs=PythonDocsConfig(packages=packages))


@pytest.fixture(scope="module")
def pages():
    return list(read_python_docs(_config(["hydra"]), lambda *_: None))


def test_topics_builtins_library_then_packages(pages):
    ids = [page.id for page in pages]
    places = [
        ids.index(name)
        for name in (
            "python_docs/topic/assert",
            "python_docs/method/str.join",
            "python_docs/function/json.dumps",
            "python_docs/function/hydra.compose.compose",
        )
        if name in ids
    ]
    assert places == sorted(places)
    assert len(places) >= 3


def test_there_is_enough_and_each_page_is_once(pages):
    assert len({page.id for page in pages}) == len(pages)
    assert len(pages) > 8000
    assert sum(len(page.text) for page in pages) > 2_500_000
    assert {page.metadata["kind"] for page in pages} == {"topic", "module", "class", "function", "method"}


@pytest.fixture
def modules(tmp_path):
    """A package of 30 modules with three documented functions each, and one without any."""
    for number in range(30):
        lines = [f"def f{n}(): 'Return the number {n} of module {number}.'" for n in range(3)]
        (tmp_path / f"m{number:02d}.py").write_text("\n".join(lines))
    (tmp_path / "empty.py").write_text("x = 1")
    return find_modules(tmp_path, "pkg")


def test_without_a_limit_a_package_is_read_whole(modules):
    entries = list(read_package(modules, PythonDocsConfig(max_documents_per_package=0)))
    assert [entry.name for entry in entries] == [f"pkg.m{m:02d}.f{n}" for m in range(30) for n in range(3)]


@pytest.mark.parametrize("limit", [1, 10, 89, 90, 500])
def test_a_limit_takes_a_fair_part_in_order(modules, limit):
    names = [entry.name for entry in read_package(modules, PythonDocsConfig(max_documents_per_package=limit))]
    assert len(names) == min(limit, 90)
    assert names == sorted(names)
    if limit == 10:
        assert names[-1] > "pkg.m10"  # not just the first modules


def test_a_part_is_the_same_each_time_and_grows_with_the_limit(modules):
    small, again, large = (
        {entry.name for entry in read_package(modules, PythonDocsConfig(max_documents_per_package=limit))}
        for limit in (10, 10, 20)
    )
    assert small == again
    assert small < large


def test_short_docstrings_are_no_entries(modules):
    assert list(read_package(modules, PythonDocsConfig(min_doc_chars=100))) == []


@pytest.mark.parametrize("package", ["no_such_package_here", "json.decoder", "../etc", "keyword"])
def test_a_package_that_is_not_there_is_named_before_anything_is_read(recorder, package):
    with pytest.raises(DataError, match="is not installed here as a package"):
        next(
            read_python_docs(
                DataConfig(source="x", python_docs=PythonDocsConfig(packages=[package])), recorder
            )
        )
