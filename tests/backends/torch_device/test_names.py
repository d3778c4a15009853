"""Every record speaks of the collectives and reductions that the collective layer knows, and of no others."""

import pytest

from backends.ascend import capability as ascend
from backends.cpu.capability import cpu_capability
from backends.cuda import capability as cuda
from backends.rocm import capability as rocm
from portable.collective.protocol import Collective, ReduceOp
from portable.device.capability import DTYPES, Role

RECORDS = [
    cpu_capability("any"),
    cuda.capability_of("sm_90"),
    rocm.capability_of("gfx942"),
    ascend.capability_of("ascend910b"),
    ascend.capability_of("ascend310p"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.arch)
def test_names_are_those_of_the_collective_layer(record):
    assert set(record.collectives) == {member.name for member in Collective}
    assert set(record.reduce_ops) == {member.name for member in ReduceOp}
    assert {role: set(table) for role, table in record.dtypes.items()} == {role: set(DTYPES) for role in Role}
