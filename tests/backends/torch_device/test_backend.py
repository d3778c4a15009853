import pytest
import torch

from backends.torch_device.backend import TorchBackend, refuse_other_accelerator
from backends.torch_device.device import TorchDevice
from portable.collective import launch
from portable.collective.local import LocalGroup
from portable.core.errors import BackendUnavailable, ConfigError
from portable.device.backend import Probe
from portable.hardware.spec import HardwareConfig
from tests.backends.torch_device.recording import RecordingModule, capability


class RecordingBackend(TorchBackend):
    name = "recorder"
    transport = "wires of torch"

    def __init__(self, *, usable=True):
        self.usable = usable
        self.num_made = 0

    def probe(self):
        return Probe(self.usable, "recorder_x", "a recorder", "none", "buy one")

    def new_device(self):
        self.num_made += 1
        return TorchDevice(
            name="recorder",
            vendor="nobody",
            torch_type="cuda",
            capability=capability(),
            module=RecordingModule(),
        )


def hardware(**settings):
    return HardwareConfig(name="x", backend="recorder", **settings)


def test_the_device_is_made_once():
    backend = RecordingBackend()
    assert backend.device() is backend.device()
    assert backend.num_made == 1


def test_an_unusable_device_is_refused_with_the_probes_words():
    with pytest.raises(BackendUnavailable, match=r"looked for a recorder; found none\. buy one"):
        RecordingBackend(usable=False).device()


def test_a_file_of_another_arch_is_refused():
    backend = RecordingBackend()
    backend.configure(hardware(arch="made-up"))
    backend.device()
    backend.configure(hardware())  # describes any
    backend.device()
    backend.configure(hardware(arch="other"))
    with pytest.raises(ConfigError, match=r"describes other.*has made-up; use hardware=recorder_x"):
        backend.device()


def test_a_real_chip_imitates_nothing():
    with pytest.raises(ConfigError, match="hardware=sim"):
        RecordingBackend().configure(hardware(like="ascend_910b"))


def test_alone_there_is_no_transport(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(RecordingBackend().group(1.0), LocalGroup)


def place(monkeypatch, local_rank):
    for name, value in {"RANK": local_rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")


def test_a_rank_takes_its_device_before_it_joins(monkeypatch):
    place(monkeypatch, 1)
    backend = RecordingBackend()
    joined = []

    def join(*arguments, **settings):
        joined.append((backend.device().module.index, settings.get("transport")))
        return "group"

    monkeypatch.setattr(launch, "join_group", join)
    assert backend.group(1.0) == "group"
    assert joined == [(1, "wires of torch")]


def test_a_rank_without_a_device_does_not_join(monkeypatch):
    place(monkeypatch, 3)
    monkeypatch.setattr(launch, "join_group", lambda *arguments, **settings: pytest.fail("joined"))
    with pytest.raises(BackendUnavailable, match="device 3, but it sees 2"):
        RecordingBackend().group(1.0)


def test_one_kind_of_accelerator_a_process(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    refuse_other_accelerator("cuda")
    with pytest.raises(BackendUnavailable, match="already drives cuda"):
        refuse_other_accelerator("npu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    refuse_other_accelerator("npu")
