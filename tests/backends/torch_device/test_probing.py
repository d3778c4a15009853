import ctypes

import pytest

from backends.torch_device.probing import existing, hides_all, load_library


def test_a_library_that_loads_and_one_that_does_not():
    assert isinstance(load_library("libabsent.so.1", "libc.so.6"), ctypes.CDLL)
    complaint = load_library("libabsent.so.1")
    assert isinstance(complaint, str)
    assert "libabsent.so.1" in complaint


def test_paths_are_looked_for_below_a_root(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("chip1", "chip0", "chipctl"):
        (tmp_path / "dev" / name).touch()
    assert existing(("/dev/chip[0-9]*", "/dev/other"), tmp_path) == ["/dev/chip0", "/dev/chip1"]


@pytest.mark.parametrize(
    ("value", "hides"), [(None, False), ("", True), (" ", True), ("-1", True), ("0,1", False)]
)
def test_a_variable_that_hides_everything(value, hides):
    assert hides_all(value) is hides
