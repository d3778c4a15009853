"""What the simulator can do by itself and what it takes on."""

import pytest

from backends.sim.capability import chip_capability, imitated, sim_capability
from portable.core.errors import ConfigError
from portable.device.capability import Capability, Feature, Role, Support


def test_formats_and_collectives_are_the_chips_the_rest_stays():
    own = sim_capability("sim", "simccl")
    chip = chip_capability("ascend_910b")
    capability = imitated(own, chip)
    assert capability.dtypes == chip.dtypes
    assert capability.reduce_ops == chip.reduce_ops
    assert capability.collectives == chip.collectives
    assert (capability.arch, capability.communicator) == ("sim", "simccl")
    assert capability.compile_backends == ()
    assert capability.engines == own.engines
    assert capability.features == (Feature.async_copy, Feature.pinned_memory)


def test_an_older_chip_has_no_bfloat16():
    dtypes = chip_capability("cuda_a100").dtypes
    assert dtypes[Role.matmul]["bf16"] is Support.native
    assert dtypes[Role.matmul]["fp8_e4m3"] is Support.none


def test_capabilities_survive_being_stored():
    own = sim_capability("sim", "simccl")
    assert Capability.from_json(own.to_json()) == own


def test_unknown_hardware_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"sim\.like=ascend_91b names no hardware file.*ascend_910b"):
        chip_capability("ascend_91b")


def test_the_processor_cannot_be_imitated():
    with pytest.raises(ConfigError, match="depends on the machine"):
        chip_capability("cpu")
