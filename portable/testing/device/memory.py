"""Bytes: how many there are, who counts them, and how tensors come and go."""

from __future__ import annotations

import io

import pytest
import torch

from portable.device.capability import Feature
from portable.device.protocol import Device

MIB = 2**20


class TestMemory:
    """The figures tell of what is allocated, and the end of memory is an error that can be survived."""

    def test_figures_fit_together(self, device: Device) -> None:
        device.reset_peak_memory()
        memory = device.memory()
        assert 0 <= memory.free_bytes <= memory.total_bytes
        assert 0 <= memory.used_bytes <= memory.total_bytes
        assert memory.peak_bytes is None or memory.peak_bytes >= 0

    def test_a_tensor_is_counted_and_uncounted(self, device: Device) -> None:
        device.empty_cache()
        before = device.memory().used_bytes
        tensor = torch.ones(64 * MIB // 4, device=device.torch_device())
        device.synchronize()
        during = device.memory().used_bytes
        del tensor
        device.empty_cache()
        after = device.memory().used_bytes
        assert during - before >= 48 * MIB  # the host's figure moves a little by itself
        assert during - after >= 48 * MIB

    def test_peak_remembers_what_is_gone_until_it_is_reset(self, device: Device) -> None:
        device.reset_peak_memory()
        start = device.memory()
        if start.peak_bytes is None:
            pytest.skip("nobody keeps a peak on this device")
        tensor = torch.ones(64 * MIB // 4, device=device.torch_device())
        device.synchronize()
        del tensor
        device.empty_cache()
        peak = device.memory().peak_bytes
        assert peak is not None
        assert peak - start.used_bytes >= 48 * MIB
        device.reset_peak_memory()
        reset = device.memory().peak_bytes
        assert reset is not None
        assert peak - reset >= 32 * MIB

    def test_the_end_of_memory_is_an_error_that_can_be_survived(self, device: Device) -> None:
        """The host's allocator is the system's, whose error is torch's plain one; it promises much."""
        is_host = device.torch_device().type == "cpu"
        num_bytes = 2**55 if is_host else device.memory().total_bytes + MIB
        before = device.memory().used_bytes
        with pytest.raises(RuntimeError if is_host else torch.OutOfMemoryError, match=r"memory|allocate"):
            torch.empty(num_bytes, dtype=torch.uint8, device=device.torch_device())
        assert device.memory().used_bytes - before < 16 * MIB
        assert torch.ones(4, device=device.torch_device()).sum().item() == 4.0


class TestMovement:
    """Values survive every way in and out of the device."""

    def test_pinned_memory(self, device: Device) -> None:
        tensor = torch.arange(1000.0)
        pinned = device.pin(tensor)
        assert torch.equal(pinned, tensor)
        assert pinned.device.type == "cpu"
        if device.supports(Feature.pinned_memory):
            assert pinned.is_pinned()
        else:
            assert pinned is tensor

    def test_copies_that_do_not_wait(self, device: Device) -> None:
        pinned = device.pin(torch.arange(1000.0))
        there = pinned.to(device.torch_device(), non_blocking=True)
        back = device.pin(torch.zeros(1000))
        back.copy_(there * 2, non_blocking=True)
        device.synchronize()
        assert torch.equal(back, torch.arange(1000.0) * 2)

    @pytest.mark.parametrize("layout", ["plain", "transposed", "strided", "expanded", "scalar", "empty"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
    def test_what_is_saved_is_loaded_without_the_device(
        self, device: Device, layout: str, dtype: torch.dtype
    ) -> None:
        values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).remainder(97).to(dtype)
        made = _layout(values.to(device.torch_device()), layout)
        file = io.BytesIO()
        torch.save(device.to_portable(made), file)
        file.seek(0)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        expected = _layout(values, layout)
        assert torch.equal(loaded, expected)
        assert loaded.dtype == dtype
        assert torch.equal(device.to_portable(made).cpu(), expected)

    def test_a_portable_tensor_is_left_as_it_is(self, device: Device) -> None:
        tensor = device.to_portable(torch.ones(3, 4, device=device.torch_device()))
        assert device.to_portable(tensor) is tensor

    def test_an_operand_of_another_device_is_refused(self, device: Device) -> None:
        """What runs by luck where operands are moved behind one's back fails on the next device."""
        other = "meta" if device.torch_type == "cpu" else "cpu"
        here, there = torch.ones(4, 4, device=device.torch_device()), torch.ones(4, 4, device=other)
        for mix in (torch.add, torch.mul):
            with pytest.raises(RuntimeError, match="device"):
                mix(here, there)
        if other == "cpu":  # torch's own rules for meta tensors are laxer
            with pytest.raises(RuntimeError, match="device"):
                torch.mm(here, there)
            with pytest.raises(RuntimeError, match="device"):
                torch.nn.functional.linear(here, there)

    def test_a_host_scalar_is_an_operand_everywhere(self, device: Device) -> None:
        here = torch.ones(3, device=device.torch_device())
        assert (here * torch.tensor(2.0)).tolist() == [2.0, 2.0, 2.0]


def _layout(tensor: torch.Tensor, name: str) -> torch.Tensor:
    match name:
        case "transposed":
            return tensor.transpose(1, 3)
        case "strided":
            return tensor[:, 1:, ::2]
        case "expanded":
            return tensor[:, :1].expand(-1, 3, -1, -1)
        case "scalar":
            return tensor[1, 2, 3, 4]
        case "empty":
            return tensor[:0]
        case _:
            return tensor
