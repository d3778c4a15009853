import pytest

from portable.config.override import options_first, resolve_auto


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ["hardware=cpu"]),
        (["steps=3"], ["steps=3", "hardware=cpu"]),
        (["hardware=auto", "steps=3"], ["hardware=cpu", "steps=3"]),
        (["hardware=cuda_h100"], ["hardware=cuda_h100"]),
        (["-m", "hardware=auto,rocm_mi300x"], ["-m", "hardware=cpu,rocm_mi300x"]),
        (["hardware.memory_gib.value=3"], ["hardware.memory_gib.value=3", "hardware=cpu"]),
    ],
)
def test_auto_becomes_what_is_found(given, wanted) -> None:
    assert resolve_auto(given, lambda: "cpu") == wanted


def test_nothing_is_looked_for_when_hardware_is_named() -> None:
    def fail() -> str:
        raise AssertionError("looked for hardware")

    assert resolve_auto(["hardware=cpu"], fail) == ["hardware=cpu"]


def test_options_come_before_overrides_whose_order_stays() -> None:
    words = ["steps=3", "--cfg", "job", "~optim", "hardware=cpu", "--config-dir", "mine", "-m"]
    assert options_first(words) == [
        "--cfg",
        "job",
        "--config-dir",
        "mine",
        "-m",
        "steps=3",
        "~optim",
        "hardware=cpu",
    ]
