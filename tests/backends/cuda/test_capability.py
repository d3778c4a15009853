import pytest
import torch

from backends.cuda.capability import arch_of, capability_of
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, Feature, Role, Support


@pytest.mark.parametrize(
    ("arch", "bf16", "fp8", "fp8_sums", "shared_kib"),
    [
        ("sm_75", Support.emulated, Support.none, Support.emulated, 64),
        ("sm_80", Support.native, Support.none, Support.emulated, 163),
        ("sm_89", Support.native, Support.native, Support.emulated, 99),
        ("sm_90", Support.native, Support.native, Support.native, 227),
        ("sm_120", Support.native, Support.native, Support.native, 99),
    ],
)
def test_abilities_follow_the_arch(arch, bf16, fp8, fp8_sums, shared_kib):
    capability = capability_of(arch)
    assert capability.dtype(Role.matmul, "bf16") is bf16
    assert capability.dtype(Role.matmul, "fp8_e4m3") is fp8
    assert capability.dtype(Role.collective, "fp8_e5m2") is fp8_sums
    assert (capability.fp8 is not None) == (fp8 is Support.native)
    assert capability.tiles.warp_size == 32
    assert capability.tiles.on_chip_bytes == shared_kib * 1024
    assert capability.communicator == "nccl"
    assert capability.supports(Feature.graph_capture)
    assert not capability.supports(Feature.private_formats)


def test_the_largest_8_bit_values_are_torchs():
    fp8 = capability_of("sm_90").fp8
    assert torch.finfo(getattr(torch, fp8.e4m3)).max == fp8.e4m3_max
    assert torch.finfo(getattr(torch, fp8.e5m2)).max == fp8.e5m2_max


def test_names_of_archs():
    assert arch_of(9, 0) == "sm_90"
    assert arch_of(12, 1) == "sm_121"
    with pytest.raises(CapabilityError, match=r"'sm_61'; known: sm_70"):
        capability_of("sm_61")


def test_the_record_survives_json():
    assert Capability.from_json(capability_of("sm_90").to_json()) == capability_of("sm_90")
