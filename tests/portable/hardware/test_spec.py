from pathlib import Path

import pytest
from omegaconf import OmegaConf

from portable.hardware.spec import Figure, FigureKind, HardwareConfig

CONF = Path(__file__).parents[3] / "conf" / "hardware"


def spec(**figures):
    return HardwareConfig(name="x", backend="x", peak_tflops=figures)


def test_known_peak_is_told_in_flops():
    assert spec(bf16=Figure(value=312.0)).peak_flops("bf16") == 312e12
    assert spec(bf16=Figure(value=2.0, kind=FigureKind.measured)).peak_flops("bf16") == 2e12


@pytest.mark.parametrize(
    "figures",
    [{}, {"bf16": Figure()}, {"bf16": Figure(value=320.0, low=280.0, high=376.0, kind=FigureKind.disputed)}],
    ids=["absent", "empty", "disputed"],
)
def test_there_is_no_peak_to_trust_otherwise(figures):
    assert spec(**figures).peak_flops("bf16") is None


def test_lists_and_figures_are_not_shared():
    first, second = HardwareConfig(), HardwareConfig()
    first.probe.packages.append("p")
    first.memory_gib.value = 1.0
    assert second.probe.packages == []
    assert second.memory_gib.value is None


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_figure_in_conf_has_a_source_and_a_date(file):
    content = OmegaConf.to_container(OmegaConf.load(file))
    figures = [content.get(key) for key in ("memory_gib", "memory_bandwidth_tb_s", "link_gb_s")]
    figures += list((content.get("peak_tflops") or {}).values())
    for figure in filter(None, figures):
        if figure.get("value") is not None or figure.get("low") is not None:
            assert figure.get("source"), figure
            assert figure.get("date"), figure
