"""Streams, events, and the waits that a program forgot."""

import gc

import pytest
import torch


@pytest.fixture
def side():
    return torch.Stream(device="sim")


def test_a_read_without_a_wait_names_both_streams_and_the_remedy(side):
    tensor = torch.ones(3, device="sim")
    with pytest.raises(torch.AcceleratorError) as caught, side:
        tensor * 2
    message = str(caught.value)
    for part in ("aten::mul", f"stream {side.stream_id} of sim:0", "reads a tensor [3]", "aten::fill_"):
        assert part in message
    assert "the default stream of sim:0" in message
    assert "wait_stream" in message


@pytest.mark.parametrize(
    "how", ["wait_stream", "event", "synchronize", "stream_synchronize", "query", "item"]
)
def test_every_kind_of_wait_orders(side, how):
    tensor = torch.ones(3, device="sim")
    main = torch.sim.current_stream()
    if how == "wait_stream":
        side.wait_stream(main)
    elif how == "event":
        side.wait_event(main.record_event())
    elif how == "synchronize":
        torch.sim.synchronize()
    elif how == "stream_synchronize":
        main.synchronize()
    elif how == "query":
        assert main.query()
    else:
        tensor.sum().item()
    with side:
        doubled = tensor * 2
    main.wait_stream(side)
    assert doubled.tolist() == [2, 2, 2]


def test_an_event_covers_only_what_came_before_it(side):
    tensor = torch.ones(3, device="sim")
    event = torch.sim.current_stream().record_event()
    tensor.add_(1)
    side.wait_event(event)
    with pytest.raises(torch.AcceleratorError, match="aten::add on the default stream"), side:
        tensor * 2


def test_two_streams_may_read_but_not_write_beside_a_read(side):
    tensor = torch.ones(3, device="sim")
    side.wait_stream(torch.sim.current_stream())
    with side:
        kept = tensor * 2
    tensor * 3
    with pytest.raises(torch.AcceleratorError, match="writes a tensor"):
        tensor.zero_()
    torch.sim.synchronize()
    del kept


def test_disjoint_parts_of_a_tensor_do_not_meet(side):
    tensor = torch.ones(8, device="sim")
    side.wait_stream(torch.sim.current_stream())
    with side:
        tensor[4:].zero_()
    tensor[:4].add_(1)
    with pytest.raises(torch.AcceleratorError):
        tensor[3:5].add_(1)
    torch.sim.synchronize()


def test_views_move_no_bytes(side):
    tensor = torch.ones(4, 4, device="sim")
    with side:
        assert tensor.t()[1:].shape == (3, 4)


def test_a_host_read_waits_for_its_own_stream_only(side):
    side.wait_stream(torch.sim.current_stream())
    with side:
        written = torch.ones(3, device="sim")
    with pytest.raises(torch.AcceleratorError, match="aten::copy_"):
        written.cpu()
    torch.sim.synchronize()


def test_memory_freed_too_early_is_reported(side):
    tensor = torch.ones(3, device="sim")
    side.wait_stream(torch.sim.current_stream())
    with side:
        kept = tensor * 2
    del tensor
    gc.collect()
    with pytest.raises(
        torch.AcceleratorError, match=r"freed there while aten::mul on stream .*record_stream"
    ):
        torch.empty(3, device="sim")
    torch.sim.synchronize()
    del kept


def test_memory_may_be_freed_if_the_wait_comes_before_the_next_allocation(side):
    tensor = torch.ones(3, device="sim")
    side.wait_stream(torch.sim.current_stream())
    with side:
        kept = tensor * 2
    del tensor
    gc.collect()
    torch.sim.current_stream().wait_stream(side)
    torch.empty(3, device="sim")
    del kept


@pytest.mark.parametrize("how", ["record_stream", "wait"])
def test_memory_may_be_freed_when_its_users_are_known(side, how):
    tensor = torch.ones(3, device="sim")
    side.wait_stream(torch.sim.current_stream())
    with side:
        kept = tensor * 2
    if how == "record_stream":
        tensor.record_stream(side)
    else:
        torch.sim.current_stream().wait_stream(side)
    del tensor
    gc.collect()
    torch.empty(3, device="sim")
    torch.sim.synchronize()
    del kept


def test_events_measure_the_time_between_them():
    start, end = torch.Event(enable_timing=True), torch.Event(enable_timing=True)
    start.record()
    torch.rand(200, 200, device="sim") @ torch.rand(200, 200, device="sim")
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) > 0
    plain = torch.Event()
    plain.record()
    with pytest.raises((RuntimeError, ValueError), match="timing"):
        start.elapsed_time(plain)


def test_the_default_stream_is_current_again_after_the_block(side):
    before = torch.sim.current_stream()
    with torch.sim.stream(side):
        assert torch.sim.current_stream() == side
    assert torch.sim.current_stream() == before == torch.sim.default_stream()


def test_copies_between_devices_order_both(side):
    source = torch.ones(3, device="sim:0")
    moved = source.to("sim:1", non_blocking=True)
    assert (moved + 1).tolist() == [2, 2, 2]
    source.zero_()


def test_backward_runs_on_the_streams_of_forward(side):
    weight = torch.ones(3, device="sim", requires_grad=True)
    side.wait_stream(torch.sim.current_stream())
    with side:
        loss = (weight * 2).sum()
    torch.sim.current_stream().wait_stream(side)
    loss.backward()
    torch.sim.synchronize()
    assert weight.grad.tolist() == [2, 2, 2]


def test_checks_can_be_switched_off(side, simulator):
    simulator.check_order(False)
    tensor = torch.ones(3, device="sim")
    with side:
        tensor * 2
