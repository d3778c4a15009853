"""Who a backend and its device are, what they find, and what they ask of a process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from portable.core.errors import ConfigError
from portable.device.backend import Backend, Finding, Level
from portable.device.protocol import Device
from portable.device.select import backend_names
from portable.hardware.spec import HardwareConfig
from portable.testing.selection import hardware_of

_PROBE = """
import sys
from portable.device.select import load_backend
backend = load_backend(sys.argv[1])
backend.environment(), backend.environment(deterministic=True), backend.probe()
sys.exit(f"it imported {', '.join(heavy)}" if (heavy := {"torch", "numpy"} & set(sys.modules)) else 0)
"""


class TestBackend:
    """A backend announces itself, looks before it loads, and says what it needs."""

    def test_it_is_registered_under_its_name(self, backend: Backend, backend_name: str) -> None:
        assert backend.name == backend_name
        assert backend_name in backend_names()

    def test_probe_is_honest(self, backend: Backend) -> None:
        """What is called usable gives a device; what was looked for and found is told."""
        probe = backend.probe()
        assert probe.usable
        assert probe.looked_for
        assert probe.found
        assert backend.device().count() >= 1

    def test_probe_and_environment_come_before_torch(self, backend_name: str) -> None:
        """Variables have to stand before torch is imported, so who names them must not import it."""
        command = [sys.executable, "-c", _PROBE, backend_name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def test_its_hardware_file_names_it(self, backend: Backend) -> None:
        hardware = hardware_of(backend)
        assert hardware.name == backend.probe().hardware
        assert hardware.backend == backend.name

    def test_environment_is_returned_not_set(self, backend: Backend) -> None:
        before = dict(os.environ)
        plain, fixed = backend.environment(), backend.environment(deterministic=True)
        assert dict(os.environ) == before
        assert set(plain) <= set(fixed)
        assert all(isinstance(word, str) for pair in fixed.items() for word in pair)

    def test_a_likeness_is_taken_on_or_refused(self, backend: Backend, hardware: HardwareConfig) -> None:
        """Only simulated hardware can be like another; the rest says so instead of passing over it."""

        def start() -> None:
            fresh = type(backend)()
            fresh.configure(dataclasses.replace(hardware, like="no_such_hardware"))
            fresh.device()

        with pytest.raises(ConfigError, match="like"):
            start()

    def test_findings_are_worth_reading(self, backend: Backend) -> None:
        findings = backend.findings()
        assert findings, "a backend in use has something to say of itself, e.g. its versions"
        for finding in findings:
            assert isinstance(finding, Finding)
            assert finding.subject
            assert finding.text
            assert finding.remedy or finding.level is not Level.bad, f"no remedy for: {finding.text}"

    def test_group_of_one_process(
        self, backend: Backend, device: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        group = backend.group(10.0)
        ones = torch.ones(2, device=device.torch_device())
        assert (group.rank, group.size) == (0, 1)
        assert group.all_reduce(ones).tolist() == [1.0, 1.0]
        group.close()


class TestDevice:
    """A device knows its name, its number and its parts."""

    def test_names_agree(self, backend: Backend, device: Device) -> None:
        assert device.name == backend.name
        assert device.torch_device().type == device.torch_type
        assert device.capability().arch == device.arch

    def test_info_describes_the_device(self, device: Device) -> None:
        info = device.info()
        assert info.name
        assert (info.vendor, info.arch) == (device.vendor, device.arch)
        assert info.num_cores >= 1
        assert info.total_bytes == device.memory().total_bytes

    def test_every_index_holds_tensors(self, device: Device) -> None:
        for index in range(device.count()):
            where = device.torch_device(index)
            tensor = torch.full((3,), 7.0, device=where)
            assert tensor.device == where
            assert tensor.tolist() == [7.0, 7.0, 7.0]
            assert device.memory(index).total_bytes > 0
            assert device.info(index).arch

    def test_the_current_index_is_where_tensors_go(self, device: Device) -> None:
        try:
            for index in reversed(range(device.count())):
                device.set_index(index)
                assert torch.ones(1, device=device.torch_type).device == device.torch_device(index)
        finally:
            device.set_index(0)
