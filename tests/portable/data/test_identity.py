import os

import pytest

from portable.core.errors import DataError
from portable.data.config import DataConfig, TokenizerConfig
from portable.data.identity import source_identity


def test_a_changed_file_changes_the_identity(tmp_path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    config = DataConfig(source=str(tmp_path / "*.txt"))
    first = source_identity(config)
    assert source_identity(config) == first
    file.write_text("two")
    os.utime(file, ns=(1, 1))
    assert source_identity(config) != first


def test_a_new_file_changes_the_identity(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one")
    config = DataConfig(source=str(tmp_path))
    first = source_identity(config)
    (tmp_path / "b.md").write_text("two")
    assert len(source_identity(config)) == len(first) + 1


def test_installed_packages_are_known_by_version() -> None:
    config = DataConfig(source="python_docs")
    config.python_docs.packages = ["numpy", "no_such_package_here"]
    rows = dict(source_identity(config))
    assert rows["numpy"][0].isdigit()
    assert rows["no_such_package_here"] == "not installed"
    assert "python" in rows


def test_no_file_is_an_error(tmp_path) -> None:
    with pytest.raises(DataError, match=r"data\.source"):
        source_identity(DataConfig(source=str(tmp_path / "*.txt")))


def test_another_tokenizer_in_the_same_folder_changes_the_identity(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one")
    config = DataConfig(source=str(tmp_path / "*.txt"), tokenizer=TokenizerConfig(path=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    first = source_identity(config)
    (tmp_path / "tokenizer.json").write_text("[]")
    assert source_identity(config) != first
