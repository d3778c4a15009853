"""What the imitated chip refuses, what it leaves to the CPU, and what is counted."""

import pytest
import torch


def test_a_denied_format_is_refused_wherever_it_comes_from(simulator):
    simulator.set_chip("chip_x")
    simulator.deny_dtypes([torch.float64])
    for make in (
        lambda: torch.ones(2, device="sim", dtype=torch.float64),
        lambda: torch.ones(2, device="sim").double(),
        lambda: torch.ones(2, dtype=torch.float64).to("sim"),
        lambda: torch.empty_strided((2,), (1,), device="sim", dtype=torch.float64),
        lambda: torch.ones(2, device="sim").sum(dtype=torch.float64),
    ):
        with pytest.raises(NotImplementedError, match=r"chip_x.*Double"):
            make()
    assert torch.ones(2, device="sim").sum().item() == 2
    assert torch.float64 not in torch.accelerator.get_device_capability()["supported_dtypes"]


def test_a_format_may_be_stored_but_not_multiplied(simulator):
    simulator.deny_matmul_dtypes([torch.int64])
    whole = torch.ones(2, 2, device="sim", dtype=torch.int64)
    assert (whole + whole).sum().item() == 8
    with pytest.raises(NotImplementedError, match="does not multiply matrices of Long"):
        whole @ whole


def test_a_denied_operator_is_refused_by_name(simulator):
    simulator.deny_ops(["aten::relu"])
    tensor = torch.ones(2, device="sim")
    with pytest.raises(NotImplementedError, match=r"aten::relu is not implemented on sim"):
        tensor.relu()
    assert tensor.neg().tolist() == [-1, -1]


def test_operators_outside_the_table_are_counted_as_fallbacks(simulator):
    tensor = torch.ones(2, device="sim")
    simulator.reset_counts()
    simulator.set_op_table(["aten::add"])
    tensor + tensor
    tensor.relu()
    tensor.relu()
    tensor[1:]  # a view computes nothing
    assert simulator.fallback_counts() == {"aten::relu": 2}
    assert simulator.op_counts()["aten::add.out"] == 1
    simulator.reset_counts()
    assert simulator.fallback_counts() == {}


def test_strict_refuses_to_fall_back(simulator):
    simulator.set_op_table(["aten::add"], strict=True)
    tensor = torch.empty(2, device="sim")
    with pytest.raises(NotImplementedError, match=r"aten::relu has no kernel.*strict"):
        tensor.relu()


def test_operands_on_two_kinds_of_device_are_refused():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="sim") + torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="sim:0") + torch.ones(2, device="sim:1")
    assert (torch.ones(2, device="sim") + torch.tensor(1.0)).tolist() == [2, 2]  # a number may be


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(RuntimeError, match="2 devices"):
        torch.ones(2, device="sim:7")
