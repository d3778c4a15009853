"""Where the YAML files are found: inside a package, beside a checkout, or nowhere."""

from pathlib import Path

import pytest

from portable.config import search_path
from portable.config.search_path import conf_dir
from portable.core.errors import ConfigError


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Pretend that the module stands in an empty ``site/portable``."""
    folder = tmp_path / "site" / "portable"
    (folder / "config").mkdir(parents=True)
    monkeypatch.setattr(search_path, "__file__", str(folder / "config" / "search_path.py"))
    return folder


def put_conf(parent: Path) -> Path:
    folder = parent / "conf"
    folder.mkdir()
    (folder / "machine.yaml").write_text("defaults: [_self_]\n")
    return folder


def test_ours_is_found_and_holds_the_verbs() -> None:
    assert (conf_dir() / "machine.yaml").is_file()
    assert (conf_dir() / "run.yaml").is_file()


def test_a_checkout_has_it_beside_the_package(package: Path) -> None:
    assert conf_dir_is(put_conf(package.parent))


def test_an_installed_package_has_it_inside_and_that_one_comes_first(package: Path) -> None:
    put_conf(package.parent)
    assert conf_dir_is(put_conf(package))


def test_a_folder_of_that_name_without_our_files_is_not_taken(package: Path) -> None:
    (package / "conf").mkdir()
    assert conf_dir_is(put_conf(package.parent))


def test_none_at_all_says_what_to_do(package: Path) -> None:
    with pytest.raises(ConfigError, match="install portable-llm again") as error:
        conf_dir()
    assert str(package) in str(error.value)


def conf_dir_is(folder: Path) -> bool:
    return conf_dir() == folder.resolve()
