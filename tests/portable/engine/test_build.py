"""From a name to an engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from portable.core.errors import ArtefactError, BackendUnavailable, ConfigError
from portable.engine.build import ENGINES, build_engine
from portable.engine.config import EngineConfig, HfEngineConfig, NativeEngineConfig, VllmEngineConfig
from portable.engine.hf.engine import HfEngine
from portable.engine.native.engine import NativeEngine
from portable.parallel.runtime import Runtime


class DeviceWith:
    """A device that says this of its engines, and is a CPU in all else."""

    name = "somewhere"

    def __init__(self, inner, engines: dict[str, str]) -> None:
        self.inner, self.engines = inner, engines

    def capability(self):
        return replace(self.inner.capability(), engines=self.engines)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


def test_names_lead_to_engines(model_dir: Path, runtime: Runtime) -> None:
    assert isinstance(build_engine(model_dir, NativeEngineConfig(), runtime), NativeEngine)
    assert isinstance(build_engine(model_dir, HfEngineConfig(), runtime), HfEngine)


def test_an_unknown_name_is_answered_with_the_nearest(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"no engine is called 'nativ'.* Did you mean 'native'"):
        build_engine(model_dir, EngineConfig(name="nativ"), runtime)


def test_an_engine_that_the_device_cannot_run_is_refused_with_the_reason(
    model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES._objects, "vllm", None)
    engines = {"native": "", "hf": "", "vllm": "it needs wings"}
    grounded = replace(runtime, device=DeviceWith(runtime.device, engines))
    with pytest.raises(
        BackendUnavailable,
        match="engine=vllm cannot run on somewhere: it needs wings; usable here: native, hf",
    ):
        build_engine(model_dir, VllmEngineConfig(), grounded)


def test_an_engine_that_the_device_never_heard_of_may_try(
    model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES._objects, "mine", lambda path, config, given: (path, config.name, given))
    built = build_engine(model_dir, EngineConfig(name="mine"), runtime)
    assert built == (model_dir, "mine", runtime)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(ArtefactError, match=r"holds no config.json"):
        build_engine(tmp_path, NativeEngineConfig(), runtime)
