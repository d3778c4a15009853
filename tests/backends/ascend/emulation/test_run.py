"""What ``portable emulate ascend`` checks before it starts anything; none of this needs torch_npu."""

from __future__ import annotations

import sys

import pytest

from backends.ascend.emulation import run as emulator
from backends.ascend.emulation.chip import CHIPS, denials, find_chip
from portable.cli.emulate import run_emulate
from portable.core.errors import BackendUnavailable, ConfigError


def test_sizes() -> None:
    assert emulator.parse_size("2GiB") == 2 << 30
    assert emulator.parse_size("512 MB") == 512 * 10**6
    assert emulator.parse_size("1.5gib") == 3 << 29
    assert emulator.parse_size("4096") == 4096
    with pytest.raises(ConfigError, match="--memory two"):
        emulator.parse_size("two")


@pytest.mark.parametrize(
    ("name", "soc"),
    [
        ("910b", "Ascend910B2"),
        ("910B4", "Ascend910B4"),
        ("Ascend910_9392", "Ascend910_9392"),
        ("310p", "Ascend310P3"),
    ],
)
def test_chips_by_name(name: str, soc: str) -> None:
    assert find_chip(name).soc_name == soc


def test_an_unknown_chip_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="910b1, 910b2"):
        find_chip("910z")


def test_only_the_310p_lacks_bfloat16() -> None:
    without = {name for name, chip in CHIPS.items() if any(row.dtype == "bfloat16" for row in denials(chip))}
    assert without == {"310p"}


@pytest.mark.parametrize(
    ("options", "command", "message"),
    [
        ([], [], "what is to be run"),
        (["--devices", "0"], ["true"], "--devices 0"),
        (["--speed"], ["true"], "unrecognized arguments: --speed"),
    ],
)
def test_wrong_options_are_letters(options: list[str], command: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        emulator.run(options, command)


def test_the_verb_names_what_is_installed() -> None:
    with pytest.raises(ConfigError, match=r"no emulator 'ascent'.*Did you mean 'ascend'"):
        run_emulate(["ascent", "--", "true"])
    with pytest.raises(ConfigError, match="which emulator"):
        run_emulate([])


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "version", lambda _: "2.12.0.post2")
    with pytest.raises(
        BackendUnavailable, match=r"knows torch_npu 2\.13\.0, and 2\.12\.0\.post2 is installed"
    ):
        emulator.check_versions()


def test_without_torch_npu_the_letter_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> str:
        raise emulator.PackageNotFoundError("torch_npu")

    monkeypatch.setattr(emulator, "version", missing)
    with pytest.raises(BackendUnavailable, match="make ascend-emulation"):
        emulator.run([], [sys.executable, "-c", "pass"])
