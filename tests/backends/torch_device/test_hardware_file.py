import pytest

from backends.torch_device.hardware_file import Chip, hardware_for, without_figures
from portable.config.search_path import conf_dir

GIB = 2**30


@pytest.mark.parametrize(
    ("backend", "chip", "expected"),
    [
        ("cuda", Chip("sm_80", "NVIDIA A100-SXM4-80GB", 79 * GIB), "cuda_a100"),
        ("cuda", Chip("sm_90", "NVIDIA H100 80GB HBM3", 79 * GIB), "cuda_h100"),
        ("cuda", Chip("sm_90", "NVIDIA H200", 139 * GIB), "cuda_h200"),
        # The same arch, and figures of its own:
        ("cuda", Chip("sm_80", "NVIDIA A100-SXM4-40GB", 39 * GIB), "cuda"),
        ("cuda", Chip("sm_90", "NVIDIA H100 PCIe", 79 * GIB), "cuda"),
        ("cuda", Chip("sm_90", "NVIDIA H20", 95 * GIB), "cuda"),
        ("cuda", Chip("sm_89", "NVIDIA GeForce RTX 4090", 23 * GIB), "cuda"),
        ("rocm", Chip("gfx942", "AMD Instinct MI300X OAM", 191 * GIB), "rocm_mi300x"),
        ("rocm", Chip("gfx942", "", 191 * GIB), "rocm_mi300x"),
        ("rocm", Chip("gfx942", "AMD Instinct MI308X", 191 * GIB), "rocm"),
        ("rocm", Chip("gfx942", "", 255 * GIB), "rocm"),
        ("rocm", Chip("gfx90a", "AMD Instinct MI250X / MI250", 64 * GIB), "rocm_mi250x"),
        ("ascend", Chip("ascend910b"), "ascend_910b"),
        ("ascend", Chip("ascend910_93"), "ascend_910c"),
        ("ascend", Chip("ascend310p"), "ascend"),
        ("rocm", Chip("sm_90", "NVIDIA H100 80GB HBM3", 79 * GIB), "rocm"),
    ],
)
def test_a_file_is_named_only_if_its_figures_are_the_chips(backend, chip, expected):
    assert hardware_for(backend, chip) == expected
    assert (conf_dir() / "hardware" / f"{expected}.yaml").is_file()


def test_missing_figures_are_told():
    (finding,) = without_figures("cuda", "cuda")
    assert "no utilisation" in finding.text
    assert without_figures("cuda", "cuda_h100") == []
