"""One simulated machine for the process, as good as new for every test."""

import pytest
import torch

from backends.sim.runtime import activate


@pytest.fixture
def simulator():
    simulator = activate()
    simulator.set_chip("sim")
    simulator.set_memory_limit(0)
    simulator.deny_dtypes(())
    simulator.deny_matmul_dtypes(())
    simulator.deny_ops(())
    simulator.set_op_table(())
    simulator.check_order(True)
    simulator.fill_unwritten(True)
    simulator.reset_counts()
    torch.accelerator.synchronize()
    return simulator


@pytest.fixture(autouse=True)
def _active(simulator):
    return simulator
