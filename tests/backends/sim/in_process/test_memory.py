"""Byte counts, the budget, unwritten memory, storages."""

import gc
import io

import pytest
import torch

MIB = 2**20


def test_tensors_are_counted_to_the_byte():
    torch.sim.reset_peak_memory_stats()
    before = torch.sim.memory_allocated()
    kept = torch.zeros(1000, device="sim")
    assert torch.sim.memory_allocated() - before == 4000
    result = kept + kept  # adopted from the processor's kernel
    assert torch.sim.memory_allocated() - before == 8000
    view = result[10:]
    assert torch.sim.memory_allocated() - before == 8000
    del kept, result
    assert torch.sim.memory_allocated() - before == 4000
    del view
    assert torch.sim.memory_allocated() == before
    assert torch.sim.max_memory_allocated() - before == 8000
    assert torch.sim.memory_stats()["allocation.all.current"] >= 0


def test_reserved_memory_stays_until_the_cache_is_emptied():
    torch.zeros(MIB, device="sim")
    assert torch.sim.memory_reserved() >= 4 * MIB
    torch.sim.empty_cache()
    assert torch.sim.memory_reserved() == torch.sim.memory_allocated()


def test_each_device_has_its_own_figures():
    before = torch.sim.memory_allocated(1)
    other = torch.zeros(10, device="sim:1")
    assert torch.sim.memory_allocated("sim:1") - before == 40
    assert (other + 1).device == torch.device("sim:1")


def test_past_the_budget_allocations_fail_with_the_figures(simulator):
    simulator.set_memory_limit(MIB)
    assert torch.sim.mem_get_info()[1] == MIB
    kept = torch.zeros(MIB // 8, device="sim")  # half of it
    with pytest.raises(
        torch.OutOfMemoryError,
        match=r"sim:0.*786432 bytes.*asked for, 524288 bytes of its 1\.00 MiB are in use",
    ):
        torch.empty(3 * MIB // 16, device="sim")
    with pytest.raises(torch.OutOfMemoryError):
        torch.cat([kept, kept])  # a result, not a request
    assert torch.sim.memory_stats()["num_ooms"] >= 2
    del kept
    gc.collect()
    torch.empty(3 * MIB // 16, device="sim")


def test_unwritten_memory_shows():
    assert torch.empty(3, device="sim").isnan().all()
    assert torch.empty(3, device="sim", dtype=torch.bfloat16).isnan().all()
    assert torch.empty_strided((2, 2), (1, 2), device="sim").isnan().all()
    for eight_bit in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz):
        assert torch.empty(3, device="sim", dtype=eight_bit).float().isnan().all()
    assert (torch.empty(3, device="sim", dtype=torch.int64) < -(2**60)).all()
    grown = torch.ones(2, device="sim")
    grown.resize_(4)
    assert grown[:2].tolist() == [1, 1]
    assert grown[2:].isnan().all()


def test_storages_are_emptied_and_filled_again():
    tensor = torch.arange(4.0, device="sim")
    before = torch.sim.memory_allocated()
    tensor.untyped_storage().resize_(0)
    assert before - torch.sim.memory_allocated() == 16
    with pytest.raises(RuntimeError, match="storage"):
        tensor + 1
    tensor.untyped_storage().resize_(16)
    assert tensor.isnan().all()
    tensor.copy_(torch.ones(4))
    assert tensor.tolist() == [1, 1, 1, 1]


def test_tensors_are_saved_and_loaded():
    saved = {"whole": torch.arange(6.0, device="sim").reshape(2, 3), "other": torch.ones(2, device="sim:1")}
    saved["view"] = saved["whole"][:, 1:]
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    for place, kind in ((None, "sim"), ("cpu", "cpu")):
        buffer.seek(0)
        loaded = torch.load(buffer, map_location=place, weights_only=True)
        assert loaded["whole"].device.type == kind
        assert all(torch.equal(loaded[name].cpu(), saved[name].cpu()) for name in saved)
    buffer.seek(0)
    again = torch.load(buffer)
    assert again["other"].device == torch.device("sim:1")
    again["whole"].zero_()
    assert again["view"].sum() == 0  # still one storage


def test_set_shares_a_storage():
    source = torch.arange(4.0, device="sim")
    tensor = torch.empty(0, device="sim").set_(source.untyped_storage(), 1, (2,), (2,))
    assert tensor.tolist() == [1, 3]
    tensor.zero_()
    assert source.tolist() == [0, 0, 2, 0]
    tensor.set_(source.untyped_storage(), 3, (2,), (1,))  # grows the storage, as on the CPU
    assert source.untyped_storage().nbytes() == 20
    assert tensor[0] == source[3] == 0
    with pytest.raises(RuntimeError, match="the storage is on cpu"):
        tensor.set_(torch.ones(4).untyped_storage())


def test_pinned_memory_is_known_by_its_address():
    pinned = torch.ones(4).pin_memory()
    assert pinned.is_pinned()
    assert pinned[2:].is_pinned()
    assert torch.empty(2, pin_memory=True).is_pinned()
    assert not torch.ones(4).is_pinned()
