"""Every refusal says what works, and comes before anything is built."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from portable.collective.local import LocalGroup
from portable.core.errors import BackendUnavailable, CapabilityError, ConfigError
from portable.device.backend import Probe
from portable.device.capability import Capability, Feature, Role, Support
from portable.device.protocol import Dtype
from portable.hardware.spec import HardwareConfig, ProbeSpec
from portable.kernel.config import KernelConfig, SelfTest
from portable.parallel import build
from portable.parallel.config import (
    CommunicatorConfig,
    DdpConfig,
    FsdpConfig,
    PrecisionConfig,
    SingleConfig,
    StrategyConfig,
)

HARDWARE = HardwareConfig(name="cpu", backend="cpu")
CAPABILITY = Capability(
    arch="beads",
    communicator="gloo",
    dtypes={Role.matmul: {"fp32": Support.native, "bf16": Support.emulated, "fp16": Support.none}},
    reduce_ops={"sum": Support.native},
    collectives={},
    strategies={"single": "", "ddp": "", "fsdp": "its driver cannot scatter"},
)


def runtime_with(**changes: Any):
    parts: dict[str, Any] = {
        "hardware": HARDWARE,
        "strategy": SingleConfig(),
        "precision": PrecisionConfig(),
        "communicator": CommunicatorConfig(name="gloo"),
        "kernel": KernelConfig(self_test=SelfTest.off),
    }
    return build.build_runtime(**(parts | changes))


def test_the_cpu_runtime_is_what_was_asked_for():
    runtime = runtime_with()
    assert runtime.strategy == "single"
    assert runtime.group.size == 1
    assert runtime.torch_device.type == "cpu"
    assert runtime.kernels.dtype == "fp32"
    assert runtime.new_strategy().describe() == {"name": "single", "world_size": 1}
    assert runtime.precision.name == "fp32"


def test_the_log_says_what_the_run_is_on(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="portable.parallel.build"):
        runtime_with()
    assert "strategy single, 1 process over local, layout one rank, fp32" in caplog.text


def test_kernels_are_picked_for_the_compute_format():
    assert runtime_with(precision=PrecisionConfig(compute_dtype=Dtype.bf16)).kernels.dtype == "bf16"


def test_an_unknown_backend_lists_those_installed():
    with pytest.raises(BackendUnavailable, match=r"installed backends: .*cpu"):
        runtime_with(hardware=replace(HARDWARE, backend="abacus"))


def test_hardware_that_is_not_here_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch):
    class Absent:
        name = "cpu"

        def configure(self, hardware: HardwareConfig) -> None:
            pass

        def probe(self) -> Probe:
            return Probe(
                usable=False, hardware="x", looked_for="/dev/abacus0", found="nothing", remedy="Buy one."
            )

    monkeypatch.setattr(build, "load_backend", lambda name: Absent())
    with pytest.raises(
        BackendUnavailable, match=r"looked for /dev/abacus0; found nothing. Buy one. Or use hardware=auto"
    ):
        runtime_with()


def test_the_hardware_files_remedy_stands_in_where_the_probe_has_none(monkeypatch: pytest.MonkeyPatch):
    class Absent:
        def configure(self, hardware: HardwareConfig) -> None:
            pass

        def probe(self) -> Probe:
            return Probe(usable=False, hardware="x", looked_for="a bead", found="none")

    monkeypatch.setattr(build, "load_backend", lambda name: Absent())
    with pytest.raises(BackendUnavailable, match="Install beads"):
        runtime_with(hardware=replace(HARDWARE, probe=ProbeSpec(install="Install beads.")))


def test_an_unknown_strategy_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"no strategy is called 'fsd'. Did you mean 'fsdp'"):
        runtime_with(strategy=StrategyConfig(name="fsd"))


@pytest.mark.parametrize("strategy", [DdpConfig(), FsdpConfig()])
def test_one_process_trains_the_same_model_without_spreading_it_and_says_so(
    strategy: StrategyConfig, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, logger="portable.parallel.build"):
        runtime = runtime_with(strategy=strategy)
    assert runtime.new_strategy().describe() == {"name": "single", "world_size": 1}
    assert f"strategy={strategy.name} spreads a model over processes, and this is one" in caplog.text


def test_the_backend_is_told_which_hardware_it_stands_for(monkeypatch: pytest.MonkeyPatch):
    told: list[HardwareConfig] = []
    backend = build.load_backend("cpu")
    monkeypatch.setattr(type(backend), "configure", lambda self, hardware: told.append(hardware))
    runtime_with()
    assert told == [HARDWARE]


def test_determinism_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    device = type(build.load_backend("cpu").device())
    monkeypatch.setattr(device, "set_deterministic", lambda self, enabled: asked.append(enabled))
    build.build_runtime(
        HARDWARE,
        SingleConfig(),
        PrecisionConfig(),
        CommunicatorConfig(name="gloo"),
        KernelConfig(self_test=SelfTest.off),
        deterministic=True,
    )
    assert asked == [True]


def test_an_unusable_strategy_gives_the_devices_reason():
    with pytest.raises(
        ConfigError, match="cannot run on hardware=cpu: its driver cannot scatter; use one of single, ddp"
    ):
        build.check_strategy(FsdpConfig(), CAPABILITY, HARDWARE)
    build.check_strategy(DdpConfig(), CAPABILITY, HARDWARE)


def test_a_strategy_that_the_device_does_not_list_is_refused():
    with pytest.raises(ConfigError, match="the backend cpu does not list it"):
        build.check_strategy(StrategyConfig(name="zero"), CAPABILITY, HARDWARE)


def test_a_missing_number_format_lists_those_that_exist():
    with pytest.raises(
        ConfigError, match=r"precision.compute_dtype=fp16 does not exist .* use one of fp32, bf16"
    ):
        build.check_precision(PrecisionConfig(compute_dtype=Dtype.fp16), CAPABILITY, HARDWARE)


def test_an_emulated_number_format_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="portable.parallel.build"):
        build.check_precision(PrecisionConfig(compute_dtype=Dtype.bf16), CAPABILITY, HARDWARE)
    assert "precision.compute_dtype=bf16 is emulated on cpu" in caplog.text


def test_a_communicator_of_other_hardware_is_refused():
    with pytest.raises(ConfigError, match=r"communicator=fabric does not carry .* use communicator=gloo"):
        runtime_with(communicator=CommunicatorConfig(name="fabric"))


def test_processes_joined_by_something_else_are_noticed():
    class Pair(LocalGroup):
        size = 2
        communicator = "pigeon"

    with pytest.raises(
        ConfigError, match="communicator=gloo was asked for, but the processes are joined by pigeon"
    ):
        build._check_joined(CommunicatorConfig(name="gloo"), Pair())


def test_a_group_is_left_when_the_strategy_refuses_it(monkeypatch: pytest.MonkeyPatch):
    closed: list[bool] = []

    class Pair(LocalGroup):
        size = 2
        communicator = "gloo"

        def close(self) -> None:
            closed.append(True)

    backend = build.load_backend("cpu")
    monkeypatch.setattr(type(backend), "group", lambda self, timeout_s, check_calls: Pair())
    with pytest.raises(ConfigError, match="strategy=single leaves 2 processes to train 2 models"):
        runtime_with()
    assert closed == [True]


def test_a_kernel_row_that_does_not_exist_is_refused():
    with pytest.raises(CapabilityError, match="attentoin"):
        runtime_with(kernel=KernelConfig(rows={"attentoin": "reference"}))


def examined(monkeypatch: pytest.MonkeyPatch, capability: Capability | None = None, **changes: Any):
    """Return how the examination of kernels was called, if it was."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(build, "examine", lambda kernels, device, **settings: calls.append(settings))
    if capability is not None:
        device_class = type(build.load_backend("cpu").device())
        monkeypatch.setattr(device_class, "capability", lambda self: capability)
    runtime_with(**changes)
    return calls


def test_kernels_are_examined_by_right_and_clock(monkeypatch: pytest.MonkeyPatch):
    (settings,) = examined(monkeypatch, kernel=KernelConfig())
    assert settings["timed"] is True
    assert settings["index"] == 0
    assert settings["agree"](["a verdict"]) == ["a verdict"]  # the group's first rank, which is this one


def test_nothing_is_examined_where_that_is_off(monkeypatch: pytest.MonkeyPatch):
    assert examined(monkeypatch, kernel=KernelConfig(self_test=SelfTest.off)) == []


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kernel": KernelConfig(self_test=SelfTest.right)}, id="asked for"),
        pytest.param({"kernel": KernelConfig(), "deterministic": True}, id="deterministic"),
    ],
)
def test_the_clock_is_left_out(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]):
    (settings,) = examined(monkeypatch, **changes)
    assert settings["timed"] is False


def test_the_clock_of_a_device_without_real_time_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    simulated = replace(CAPABILITY, features=(), strategies={"single": ""})
    (settings,) = examined(monkeypatch, simulated, kernel=KernelConfig())
    assert settings["timed"] is False
    real = replace(simulated, features=(Feature.real_time,))
    (settings,) = examined(monkeypatch, real, kernel=KernelConfig())
    assert settings["timed"] is True


def test_a_deterministic_run_tells_its_kernels(monkeypatch: pytest.MonkeyPatch):
    assert runtime_with().kernels.deterministic is False
    monkeypatch.setattr(
        type(build.load_backend("cpu").device()), "set_deterministic", lambda self, enabled: None
    )
    assert runtime_with(deterministic=True).kernels.deterministic is True
