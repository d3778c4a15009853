import pytest
import torch

from backends.rocm.capability import arch_of, capability_of
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, Role, Support


@pytest.mark.parametrize(
    ("arch", "wave", "lds_kib", "fp8"),
    [
        ("gfx90a", 64, 64, None),
        ("gfx942", 64, 64, "float8_e4m3fnuz"),
        ("gfx950", 64, 160, "float8_e4m3fn"),
        ("gfx1100", 32, 64, None),
        ("gfx1201", 32, 64, "float8_e4m3fn"),
    ],
)
def test_abilities_follow_the_arch_not_the_vendor(arch, wave, lds_kib, fp8):
    capability = capability_of(arch)
    assert capability.tiles.warp_size == wave
    assert capability.tiles.on_chip_bytes == lds_kib * 1024
    assert (capability.fp8.e4m3 if capability.fp8 else None) == fp8
    expected = Support.native if fp8 else Support.none
    assert capability.dtype(Role.matmul, "fp8_e4m3") is expected


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_the_largest_8_bit_values_are_torchs(arch):
    fp8 = capability_of(arch).fp8
    assert torch.finfo(getattr(torch, fp8.e4m3)).max == fp8.e4m3_max
    assert torch.finfo(getattr(torch, fp8.e5m2)).max == fp8.e5m2_max


def test_bf16_is_native_since_the_first_with_matrix_cores_for_it():
    assert capability_of("gfx906").dtype(Role.matmul, "bf16") is Support.emulated
    assert capability_of("gfx908").dtype(Role.matmul, "bf16") is Support.native


def test_names_of_archs():
    assert [arch_of(number) for number in (90402, 90010, 90500, 110000, 120001)] == [
        "gfx942",
        "gfx90a",
        "gfx950",
        "gfx1100",
        "gfx1201",
    ]
    assert capability_of("gfx942:sramecc+:xnack-") == capability_of("gfx942")
    with pytest.raises(CapabilityError, match="'gfx803'; known: gfx906"):
        capability_of("gfx803")


def test_the_record_survives_json():
    assert Capability.from_json(capability_of("gfx942").to_json()) == capability_of("gfx942")
