import pytest

from backends.ascend.capability import arch_of, capability_of
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, Feature, Role, Support


@pytest.mark.parametrize(
    ("soc", "arch"),
    [
        ("Ascend910B1", "ascend910b"),
        ("Ascend910B4", "ascend910b"),
        ("Ascend910_9392", "ascend910_93"),
        ("Ascend310P3", "ascend310p"),
        ("Ascend910A", "ascend910"),
        ("Ascend910ProB", "ascend910"),
    ],
)
def test_archs_of_chips(soc, arch):
    assert arch_of(soc) == arch
    assert capability_of(arch).arch == arch


def test_unknown_chips_are_refused():
    with pytest.raises(CapabilityError, match="'Ascend950PR'; known: Ascend910B"):
        arch_of("Ascend950PR")
    with pytest.raises(CapabilityError, match="'ascend950'; known: ascend910"):
        capability_of("ascend950")


def test_the_cube_multiplies_three_formats():
    matmul = capability_of("ascend910b").dtypes[Role.matmul]
    assert {name for name, support in matmul.items() if support is not Support.none} == {
        "fp32",
        "fp16",
        "bf16",
    }
    assert capability_of("ascend310p").dtype(Role.matmul, "fp32") is Support.emulated  # in float16


def test_bf16_came_with_the_a2():
    for role in Role:
        assert capability_of("ascend910b").dtype(role, "bf16") is Support.native
        assert capability_of("ascend310p").dtype(role, "bf16") is Support.none


def test_the_communicator_lacks_averages_and_gathers():
    capability = capability_of("ascend910b")
    emulated = [name for name, support in capability.reduce_ops.items() if support is Support.emulated]
    assert emulated == ["mean", "premul_sum"]
    assert capability.collectives["gather"] is Support.emulated
    assert capability.dtype(Role.collective, "fp64") is Support.emulated


def test_abilities_that_only_the_newer_have():
    new, old = capability_of("ascend910_93"), capability_of("ascend310p")
    assert new.supports(Feature.private_formats)
    assert old.supports(Feature.private_formats)
    assert new.supports(Feature.graph_capture)
    assert not old.supports(Feature.graph_capture)
    assert (new.attention.max_head_dim, old.attention.max_head_dim) == (768, 0)
    assert new.tiles.on_chip_bytes == 192 * 1024
    assert old.tiles is None


@pytest.mark.parametrize("arch", ["ascend910b", "ascend310p"])
def test_the_record_survives_json(arch):
    assert Capability.from_json(capability_of(arch).to_json()) == capability_of(arch)
