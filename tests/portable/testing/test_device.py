"""The device suite can fail: it is shown devices with one fault each, and the named test sees it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch

from backends.cpu.backend import CpuBackend
from backends.cpu.device import CpuDevice
from portable.device.backend import Finding, Level
from portable.device.capability import Feature, Role, Support
from portable.hardware.spec import HardwareConfig
from portable.testing import device as suite
from portable.testing.device import totality


class NoStream(CpuDevice):
    def new_stream(self):
        return None


class PoorStream(CpuDevice):
    def new_stream(self):
        stream = super().new_stream()
        return type("Poor", (), {"synchronize": stream.synchronize})()


class StreamForAll(CpuDevice):
    def new_stream(self):
        return self.current_stream()


class StickyStream(CpuDevice):
    @contextlib.contextmanager
    def use_stream(self, stream):
        self._in_use.stream = stream
        yield


class Boaster(CpuDevice):
    """Claims what torch cannot do here."""

    def capability(self):
        return claim(super().capability(), Role.matmul, "bool", Support.native)


class Modest(CpuDevice):
    """Denies what it can do: shared code would avoid it, a simulator would imitate it."""

    def capability(self):
        return claim(super().capability(), Role.storage, "fp64", Support.none)


class Forgetful(CpuDevice):
    def set_rng_state(self, state):
        pass


class SharedStream(CpuDevice):
    def generator(self, seed: int):
        torch.manual_seed(seed)
        return torch.default_generator


class Optimist(CpuDevice):
    """Its record has more than it has."""

    def capability(self):
        return replace(super().capability(), features=(Feature.pinned_memory,))


class Pinning(CpuDevice):
    def supports(self, feature: Feature):
        return feature is Feature.pinned_memory


class Copying(CpuDevice):
    def to_portable(self, tensor):
        return tensor.clone()


class Flattening(CpuDevice):
    def to_portable(self, tensor):
        return tensor.flatten()


class NeverCounting(CpuDevice):
    def memory(self, index: int = 0):
        return replace(super().memory(index), used_bytes=0, peak_bytes=0)


class Casual(CpuDevice):
    def set_deterministic(self, enabled: bool):
        pass


class Tame(CpuDevice):
    def autocast(self, dtype):
        return contextlib.nullcontext()


class Other(CpuDevice):
    name = "other"


def claim(capability: Any, role: Role, name: str, support: Support) -> Any:
    table = {**capability.dtypes[role], name: support}
    return replace(capability, dtypes={**capability.dtypes, role: table})


DEVICES = {
    "a stream that is None": (NoStream, "TestTotality.test_device", "new_stream"),
    "a stream that cannot wait": (PoorStream, "TestTotality.test_device", "new_stream"),
    "a stream that is no other": (StreamForAll, "TestStreams.test_a_stream_is_current_inside_its_block_only"),
    "a stream that stays current": (
        StickyStream,
        "TestStreams.test_a_stream_is_current_inside_its_block_only",
    ),
    "a format that is claimed": (Boaster, "TestNumbers.test_matmul", "bool"),
    "a format that is denied": (Modest, "TestNumbers.test_storage", "fp64"),
    "a random state that is lost": (Forgetful, "TestRandomness.test_seeded_saved_and_restored", "dropout"),
    "a generator that is shared": (SharedStream, "TestRandomness.test_generators_stand_alone"),
    "pinned memory that is not": (Pinning, "TestMovement.test_pinned_memory"),
    "a feature that is only in the record": (
        Optimist,
        "TestCapability.test_the_device_says_the_same",
        Feature.pinned_memory,
    ),
    "a portable tensor that is copied": (Copying, "TestMovement.test_a_portable_tensor_is_left_as_it_is"),
    "a layout that is lost": (
        Flattening,
        "TestMovement.test_what_is_saved_is_loaded_without_the_device",
        "transposed",
        torch.float32,
    ),
    "memory that nobody counts": (NeverCounting, "TestMemory.test_a_tensor_is_counted_and_uncounted"),
    "a peak that nobody counts": (
        NeverCounting,
        "TestMemory.test_peak_remembers_what_is_gone_until_it_is_reset",
    ),
    "chance that stays": (Casual, "TestDeterminism.test_twice_the_same_bits"),
    "autocast that does nothing": (
        Tame,
        "TestPrecision.test_autocast_sets_the_matmul_format_inside_the_block_only",
        suite.number.Dtype.bf16,
    ),
}


@pytest.mark.parametrize("fault", DEVICES)
def test_a_faulty_device_is_seen(fault: str) -> None:
    kind, test, *arguments = DEVICES[fault]
    run = method(test)
    with pytest.raises((AssertionError, RuntimeError, AttributeError, pytest.fail.Exception)):
        run(kind(), *arguments)
    run(CpuDevice(), *arguments)  # and the healthy one passes


def method(name: str) -> Any:
    owner, _, member = name.partition(".")
    return getattr(getattr(suite, owner)(), member)


def test_a_member_that_the_suite_does_not_call_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = suite.TestTotality().test_this_suite_calls_all_there_is
    for protocol in totality.PROTOCOLS:
        whole(protocol)
        monkeypatch.setattr(protocol, "new_ability", lambda self: None, raising=False)
        with pytest.raises(AssertionError):
            whole(protocol)


class Renamed(CpuBackend):
    name = "another"


class Silent(CpuBackend):
    def findings(self):
        return []


class Helpless(CpuBackend):
    def findings(self):
        return [Finding(Level.bad, "driver", "it is too old")]


class Setting(CpuBackend):
    def environment(self, *, deterministic: bool = False):
        import os

        os.environ["MEDDLED"] = "1"
        return {}


class Credulous(CpuBackend):
    def configure(self, hardware: HardwareConfig):
        pass


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Silent, "test_findings_are_worth_reading"),
        (Helpless, "test_findings_are_worth_reading"),
        (Setting, "test_environment_is_returned_not_set"),
    ],
)
def test_a_faulty_backend_is_seen(kind: Any, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDDLED", raising=False)
    with pytest.raises(AssertionError):
        getattr(suite.TestBackend(), test)(kind())
    monkeypatch.delenv("MEDDLED", raising=False)
    getattr(suite.TestBackend(), test)(CpuBackend())


def test_a_name_that_is_not_registered_is_seen() -> None:
    suite.TestBackend().test_it_is_registered_under_its_name(CpuBackend(), "cpu")
    with pytest.raises(AssertionError):
        suite.TestBackend().test_it_is_registered_under_its_name(Renamed(), "cpu")


def test_a_likeness_that_is_passed_over_is_seen() -> None:
    hardware = HardwareConfig(name="cpu", backend="cpu")
    suite.TestBackend().test_a_likeness_is_taken_on_or_refused(CpuBackend(), hardware)
    with pytest.raises(pytest.fail.Exception):
        suite.TestBackend().test_a_likeness_is_taken_on_or_refused(Credulous(), hardware)


def test_a_device_of_another_name_is_seen() -> None:
    with pytest.raises(AssertionError):
        suite.TestDevice().test_names_agree(CpuBackend(), Other())


def test_a_wrong_number_is_seen() -> None:
    """One unit in the last place of a product of 32 terms passes; a thousandth does not."""
    exact = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = exact.abs() * 32
    suite.number._agrees(exact.float(), exact, bound)
    with pytest.raises(AssertionError, match="times the limit"):
        suite.number._agrees(exact.float() * 1.001, exact, bound)
