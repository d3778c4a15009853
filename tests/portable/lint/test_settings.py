"""Settings of ``pyproject.toml`` and of the command line, and the files they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from portable.core.errors import ConfigError, DataError
from portable.lint.files import find_files, package_of
from portable.lint.rule import load_catalogue
from portable.lint.settings import Override, Settings, settings_for


@pytest.fixture(autouse=True)
def _forget():
    settings_for.cache_clear()


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")


def table(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "pyproject.toml"
    path.write_text(f"[tool.portable.lint]\n{text}\n")
    return path


def names(root: Path, *paths: str, override: Override | None = None) -> list[str]:
    found = find_files([root / path for path in paths or (".",)], override or Override())
    return [path.relative_to(root).as_posix() for path, _ in found]


def test_python_and_notebooks_without_what_is_not_ours(tmp_path: Path):
    tree(tmp_path, "a.py", "b.pyw", "c.ipynb", "d.pyi", "e.txt", "sub/f.py", "sub/build/g.py", ".git/h.py")
    tree(
        tmp_path,
        "my_env/pyvenv.cfg",
        "my_env/lib/i.py",
        "__pycache__/j.py",
        "conda/conda-meta/x",
        "conda/k.py",
    )
    tree(tmp_path, ".hidden/l.py", "folder.py/m.py")
    assert names(tmp_path) == [".hidden/l.py", "a.py", "b.pyw", "c.ipynb", "folder.py/m.py", "sub/f.py"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path):
    tree(tmp_path, "script", "build/a.py")
    table(tmp_path, 'exclude = ["build"]')
    assert names(tmp_path, "script", "build/a.py", "build/a.py") == ["build/a.py", "script"]


def test_a_missing_path_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        names(tmp_path, "missing")


def test_excludes(tmp_path: Path):
    tree(tmp_path, "a.py", "gen_a.py", "sub/gen_b.py", "sub/deep/c.py", "other/deep/d.py", "third/e.py")
    table(tmp_path, 'exclude = ["gen_*", "sub/deep/", "third"]')
    assert names(tmp_path) == ["a.py", "other/deep/d.py"]
    assert names(tmp_path, "sub") == []
    assert names(tmp_path, override=Override(exclude=("other/*",))) == ["a.py"]


def test_the_nearest_table_counts(tmp_path: Path):
    table(tmp_path, 'ignore = ["P01"]')
    table(tmp_path / "inner", 'select = ["P04"]')
    tree(tmp_path, "inner/deep/a.py", "outer/b.py")
    (tmp_path / "inner/deep/pyproject.toml").write_text("[project]\nname = 'no table of ours'\n")
    chosen = {path.name: settings for path, settings in find_files([tmp_path], Override())}
    assert chosen["a.py"].select == ("P04",)
    assert chosen["a.py"].ignore == ()
    assert chosen["b.py"].ignore == ("P01",)
    assert chosen["b.py"].root == tmp_path


def test_the_command_line_replaces_select_and_adds_to_ignore():
    settings = Settings(select=("P01",), ignore=("P02",), exclude=("a",))
    chosen = Override(("P03",), ("P04",), ("b",), True).apply(settings)
    assert (chosen.select, chosen.ignore, chosen.exclude) == (("P03",), ("P02", "P04"), ("a", "b"))
    assert Override().apply(settings) == settings


def test_rules_that_count():
    catalogue = load_catalogue()
    assert Settings().rules(catalogue) == set(catalogue) - {"E002"}
    assert Settings(select=("P01", "P02"), ignore=("P02",)).rules(catalogue) == {"P01"}
    assert "E002" in Settings(strict_ignores=True).rules(catalogue)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('selct = ["P01"]', "Did you mean 'select'"),
        ('select = "P01"', "list of texts"),
        ("select = [1]", "list of texts"),
        ('ignore = ["P99"]', "no rule 'P99'"),
        ("select = [", "cannot be read"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str):
    table(tmp_path, text)
    tree(tmp_path, "a.py")
    with pytest.raises(ConfigError, match=message):
        names(tmp_path)


@pytest.mark.parametrize("text", ["[tool.portable]\nlint = 3", "tool = 3", "[tool]\nportable = 3", ""])
def test_odd_tables(tmp_path: Path, text: str):
    (tmp_path / "pyproject.toml").write_text(text)
    tree(tmp_path, "a.py")
    if "lint" in text:
        with pytest.raises(ConfigError, match="is a table"):
            names(tmp_path)
    else:
        assert names(tmp_path) == ["a.py"]


def test_package_of_a_file(tmp_path: Path):
    tree(
        tmp_path,
        "src/mine/__init__.py",
        "src/mine/sub/__init__.py",
        "src/mine/sub/a.py",
        "src/mine/data/b.py",
    )
    assert package_of(tmp_path / "src/mine/sub/a.py") == "mine"
    assert package_of(tmp_path / "src/mine/data/b.py") == ""
    assert package_of(tmp_path / "src/c.py") == ""
