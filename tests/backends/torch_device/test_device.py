"""The generic device, over a module that records; what needs a real one runs on ``meta`` and fake tensors."""

from types import SimpleNamespace

import pytest
import torch

from backends.torch_device.device import TorchDevice
from portable.core.errors import BackendUnavailable
from portable.device.capability import Feature
from portable.device.protocol import DeviceInfo, Dtype
from tests.backends.torch_device.recording import GIB, RecordingModule, capability


@pytest.fixture
def module():
    return RecordingModule()


def make(module, *features, compilers=()):
    return TorchDevice(
        name="recorder",
        vendor="nobody",
        torch_type="cuda",  # a type that torch can name, and compute nothing on here
        capability=capability(*features, compilers=compilers),
        module=module,
    )


def test_identity(module):
    device = make(module)
    assert device.info(1) == DeviceInfo("Recorder 1", "nobody", "made-up", 7, 16 * GIB)
    assert device.torch_device(1) == torch.device("cuda:1")
    assert device.count() == 2
    assert device.arch == device.capability().arch == "made-up"


def test_a_third_partys_type_needs_no_class_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "musa", RecordingModule(), raising=False)
    monkeypatch.setattr(torch, "get_device_module", lambda name: getattr(torch, name))
    device = TorchDevice(name="musa", vendor="mthreads", torch_type="musa", capability=capability())
    assert device.count() == 2


def test_memory_counts_what_the_process_could_still_take(module):
    memory = make(module).memory(0)
    assert (memory.total_bytes, memory.used_bytes, memory.peak_bytes) == (16 * GIB, 3 * GIB, 6 * GIB)
    assert memory.free_bytes == (4 + 5 - 3) * GIB


def test_plain_requests_reach_the_module(module):
    device = make(module)
    device.synchronize()
    device.empty_cache()
    device.reset_peak_memory()
    device.seed(5)
    names = ["synchronize", "empty_cache", "reset_peak_memory_stats", "manual_seed"]
    assert [name for name, _ in module.calls] == names
    assert module.calls[-1] == ("manual_seed", (5,))


def test_streams_and_events_are_the_modules(module):
    device = make(module)
    with device.use_stream(device.new_stream()):
        assert device.current_stream() == "side"
    assert device.current_stream() == "main"
    assert (device.new_event(), device.new_event(timing=True)) == ("event", "timed event")


def test_random_state_is_that_of_the_current_device(module):
    device = make(module)
    device.set_index(1)
    state = device.rng_state()
    assert state == "state 1"
    device.set_index(0)  # resumed in another place, with other devices beside it
    device.set_rng_state(state)
    assert module.rng == {0: "state 1", 1: "state 1"}


def test_a_device_that_is_not_there_is_refused_by_number(module):
    with pytest.raises(BackendUnavailable, match=r"device 2, but it sees 2.*LOCAL_RANK=0"):
        make(module).set_index(2)
    with pytest.raises(BackendUnavailable):
        make(module).set_index(-1)


class HostTensor:
    """A tensor on the host, as far as pinning asks."""

    device = torch.device("cpu")

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned

    def is_pinned(self):
        return self.pinned

    def contiguous(self):
        return self

    def pin_memory(self):
        return HostTensor(pinned=True)


def test_host_tensors_are_pinned_once_and_only_where_that_is_offered(module):
    tensor = HostTensor(pinned=False)
    assert make(module).pin(tensor) is tensor
    device = make(module, Feature.pinned_memory)
    pinned = device.pin(tensor)
    assert pinned.pinned
    assert device.pin(pinned) is pinned
    elsewhere = torch.empty(2, device="meta")
    assert device.pin(elsewhere) is elsewhere


def test_streams_are_recorded_on_the_devices_own_tensors_only(module):
    seen = []
    there = SimpleNamespace(device=torch.device("cuda:0"), record_stream=seen.append)
    device = make(module)
    device.record_stream(there, "side")
    assert seen == ["side"]
    device.record_stream(torch.ones(2), "side")  # torch itself would raise


def test_autocast_asks_for_the_type(module, monkeypatch):
    asked = []

    class Block:
        def __init__(self, device_type, *, dtype):
            asked.append((device_type, dtype))

        def __enter__(self):
            asked.append("in")

        def __exit__(self, *error):
            asked.append("out")

    monkeypatch.setattr(torch, "autocast", Block)
    with make(module).autocast(Dtype.bf16):
        asked.append("work")
    assert asked == [("cuda", torch.bfloat16), "in", "work", "out"]
    with make(module).autocast(Dtype.fp32):
        pass
    assert len(asked) == 4


def test_compiling_takes_the_first_compiler(module, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, *, backend: (function, backend))
    assert make(module).compile(len) is len
    assert make(module, compilers=("inductor", "other")).compile(len) == (len, "inductor")


def test_deterministic_is_torchs_switch(module):
    device = make(module)
    try:
        device.set_deterministic(True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        device.set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_generators_live_on_the_current_device(module, monkeypatch):
    made = []

    class Generator:
        def __init__(self, device):
            made.append(device)

        def manual_seed(self, seed):
            made.append(seed)
            return self

    monkeypatch.setattr(torch, "Generator", Generator)
    device = make(module)
    device.set_index(1)
    device.generator(9)
    assert made == [torch.device("cuda:1"), 9]


def test_layouts_are_plain(module):
    tensor = torch.ones(2)
    assert make(module).to_portable(tensor) is tensor
