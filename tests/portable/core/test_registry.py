"""Names for code: lazy, unique, and with a suggestion for a slip of the pen."""

import sys
from collections import OrderedDict
from importlib.metadata import EntryPoint

import pytest

from portable.core import registry as module
from portable.core.errors import BackendUnavailable, ConfigError
from portable.core.registry import Registry, blame, load_target


def test_target_is_imported_on_first_use_only():
    sys.modules.pop("this", None)
    lazy = Registry("poem", {"zen": "this:s", "dict": "collections:OrderedDict"})
    assert "zen" in lazy
    assert "this" not in sys.modules
    assert lazy.get("dict") is OrderedDict


def test_unknown_name_is_answered_with_the_nearest():
    ops = Registry("data op", {"length_filter": "a:b", "minhash": "a:c"})
    with pytest.raises(ConfigError) as caught:
        ops.get("lenght_filter")
    assert str(caught.value) == (
        "no data op is called 'lenght_filter'. Did you mean 'length_filter'? Known: length_filter, minhash."
    )


def test_decorator_registers_and_returns_the_item():
    ops = Registry("data op", {"b": "collections:deque"})

    @ops.register("a")
    class Item: ...

    assert ops.get("a") is Item
    assert list(ops) == ["a", "b"]
    assert "a" in ops
    assert "c" not in ops


def test_registering_twice_is_an_error_unless_it_is_the_same_item():
    ops = Registry("data op")
    ops.register("a")(int)
    ops.register("a")(int)
    with pytest.raises(ConfigError, match="data op 'a' is registered twice"):
        ops.register("a")(float)


def test_installed_packages_add_names(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [
            EntryPoint("theirs", "collections:Counter", group),
            EntryPoint("ours", "collections:Counter", group),
        ]

    monkeypatch.setattr(module, "entry_points", points)
    ops = Registry("op", {"ours": "collections:deque"}, entry_group="portable.ops")
    assert asked == []
    assert list(ops) == ["ours", "theirs"]
    assert ops.get("theirs").__name__ == "Counter"
    assert ops.get("ours").__name__ == "deque"  # a plug-in does not take a built-in name away
    assert asked == ["portable.ops"]


def test_target_without_attribute_is_refused():
    with pytest.raises(ConfigError, match="'collections' is not of the form"):
        load_target("collections")


def test_target_of_an_absent_module_says_so():
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        Registry("op", {"x": "nowhere_at_all:y"}).get("x")


class DriverError(Exception):
    """As a vendor's package may define and raise."""


@pytest.mark.parametrize(
    "error", [ImportError("x"), DriverError("x"), SystemExit("x")], ids=lambda e: type(e).__name__
)
def test_what_a_package_raises_becomes_an_error_that_blames_it(error):
    said = rf"chip is broken \({type(error).__name__}: x\)"
    with pytest.raises(BackendUnavailable, match=said) as caught, blame("the chip is broken"):
        raise error
    assert caught.value.__cause__ is error


def test_what_the_user_does_is_not_blamed_on_a_package():
    with pytest.raises(KeyboardInterrupt), blame("the chip is broken"):
        raise KeyboardInterrupt
