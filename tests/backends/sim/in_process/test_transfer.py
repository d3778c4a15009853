"""Copies that the host did not wait for."""

import pytest
import torch


def test_a_copy_to_pinned_memory_is_there_after_the_wait_not_before():
    source = torch.arange(4.0, device="sim")
    target = torch.zeros(4).pin_memory()
    target.copy_(source, non_blocking=True)
    assert target.isnan().all()  # whoever reads now reads garbage, as on hardware
    torch.sim.synchronize()
    assert target.tolist() == [0, 1, 2, 3]


def test_an_event_is_enough_of_a_wait():
    source = torch.arange(4.0, device="sim")
    target = torch.zeros(4).pin_memory()
    target.copy_(source, non_blocking=True)
    torch.sim.current_stream().record_event().synchronize()
    assert target.tolist() == [0, 1, 2, 3]


def test_later_changes_of_the_source_do_not_arrive():
    source = torch.ones(4, device="sim")
    target = torch.zeros(4).pin_memory()
    target.copy_(source, non_blocking=True)
    source.zero_()
    torch.sim.synchronize()
    assert target.tolist() == [1, 1, 1, 1]


def test_pinned_memory_may_go_back_on_the_same_stream():
    target = torch.zeros(4).pin_memory()
    target.copy_(torch.arange(4.0, device="sim"), non_blocking=True)
    assert target.to("sim", non_blocking=True).tolist() == [0, 1, 2, 3]


def test_pinned_memory_may_not_go_back_on_another_stream_without_a_wait():
    target = torch.zeros(4).pin_memory()
    target.copy_(torch.arange(4.0, device="sim"), non_blocking=True)
    with pytest.raises(torch.AcceleratorError, match="reads pinned host memory"), torch.Stream(device="sim"):
        target.to("sim", non_blocking=True)
    torch.sim.synchronize()


def test_changing_a_source_before_the_wait_is_an_error_at_the_wait():
    source = torch.ones(4).pin_memory()
    source.to("sim", non_blocking=True)
    source.add_(1)
    with pytest.raises(torch.AcceleratorError, match=r"pinned host tensor \[4\].*was changed"):
        torch.sim.synchronize()


def test_changing_a_source_after_the_wait_is_fine():
    source = torch.ones(4).pin_memory()
    moved = source.to("sim", non_blocking=True)
    torch.sim.synchronize()
    source.add_(1)
    torch.sim.synchronize()
    assert moved.tolist() == [1, 1, 1, 1]


def test_pageable_memory_is_done_when_the_call_returns():
    target = torch.zeros(4)
    target.copy_(torch.ones(4, device="sim"), non_blocking=True)
    assert target.tolist() == [1, 1, 1, 1]


def test_a_loader_pins_its_batches():
    data = torch.utils.data.TensorDataset(torch.arange(8.0))
    batches = [
        batch.to("sim", non_blocking=True)
        for (batch,) in torch.utils.data.DataLoader(data, batch_size=4, pin_memory=True)
    ]
    assert torch.cat(batches).tolist() == list(range(8))
