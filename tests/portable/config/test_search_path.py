"""Where the YAML files are found: inside a package, beside a checkout, or nowhere."""

import sys
from pathlib import Path

import pytest

from portable.cli.main import main
from portable.config import search_path
from portable.config.load import choices, load
from portable.config.search_path import conf_dir, plugin_conf_dirs
from portable.core.errors import ConfigError
from tests.plugins import install


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


CHIP = """# @package _global_
defaults:
  - cpu
  - _self_

hardware: {name: made_up_chip, title: A chip of a test}
"""


@pytest.fixture
def chip_site(tmp_path, monkeypatch) -> Path:
    """Install a package with a hardware file, and one that hides ours."""
    files = {
        "chip_maker/__init__.py": "",
        "chip_maker/conf/hardware/made_up_chip.yaml": CHIP,
        "chip_maker/conf/hardware/cuda_h100.yaml": CHIP,
    }
    site = install(tmp_path / "chips", "chip-maker", {"portable.conf": {"chips": "chip_maker.conf"}}, files)
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_packages_files_join_ours_when_composing(chip_site: Path) -> None:
    assert plugin_conf_dirs() == {"chips": (chip_site / "chip_maker" / "conf").resolve()}
    hardware = load("chat", ["hardware=made_up_chip", "model_path=none"]).hardware
    assert (hardware.name, hardware.backend) == ("made_up_chip", "cpu")


def test_choices_are_ours_and_theirs(chip_site: Path) -> None:
    names = choices("hardware")
    assert {"made_up_chip", "cpu", "cuda_h100"} <= set(names)
    assert len(names) == len(set(names))
    assert not any(name.startswith("base_") for name in names)


def test_our_files_stay_ours(chip_site: Path) -> None:
    hardware = load("chat", ["hardware=cuda_h100", "model_path=none"]).hardware
    assert hardware.vendor == "nvidia"


def test_the_command_line_finds_them_too(chip_site: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", list(sys.argv))
    assert main(["chat", "--cfg", "job", "hardware=made_up_chip", "model_path=none"]) == 0
    assert "A chip of a test" in capfd.readouterr().out


@pytest.mark.parametrize("target", ["chip_maker.nothing", "no_such_package.conf"])
def test_a_folder_that_is_not_there_is_named_with_its_package(target, tmp_path, monkeypatch) -> None:
    points = {"portable.conf": {"chips": target}}
    site = install(tmp_path / "chips", "chip-maker", points, {"chip_maker/__init__.py": ""})
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(ConfigError, match=f"chip-maker registers {target}"):
        plugin_conf_dirs()
