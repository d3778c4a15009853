"""Budgets lead to places, or to an error that says what is missing; the contract compares the numbers."""

from pathlib import Path
from typing import Any

import pytest

from portable.core.errors import ConfigError, StorageError
from portable.engine.config import HfEngineConfig, MaxMemoryConfig
from portable.engine.hf import device_map
from portable.engine.hf.engine import build
from portable.parallel.runtime import Runtime
from tests.portable.engine.support import ask


def auto(host: str = "", **settings: Any) -> HfEngineConfig:
    return HfEngineConfig(device_map="auto", max_memory=MaxMemoryConfig(host=host), **settings)


def test_what_fits_is_loaded_plainly(model_dir: Path, runtime: Runtime) -> None:
    assert device_map.make_device_map(model_dir, auto(), runtime) == {"": "cpu"}
    engine = build(model_dir, auto(), runtime)
    assert len(engine.generate([ask([1, 2], 3)])[0].steps) == 3
    assert not hasattr(engine.model, "hf_device_map")


def test_what_does_not_goes_to_the_disk_that_is_named(
    model_dir: Path, runtime: Runtime, tmp_path: Path
) -> None:
    places = device_map.make_device_map(model_dir, auto("80KiB", offload_folder=str(tmp_path)), runtime)
    assert set(places.values()) == {"cpu", "disk"}


def test_without_a_disk_it_is_refused_with_the_sizes(model_dir: Path, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"host memory 80\.0 KiB .*engine\.offload_folder=FOLDER"):
        build(model_dir, auto("80KiB"), runtime)


def test_too_little_for_one_block_is_refused(model_dir: Path, runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no part .* fits host memory.*give engine\.max_memory\.host more"):
        build(model_dir, auto("10KiB", offload_folder=str(tmp_path)), runtime)


def test_a_folder_that_cannot_be_written_is_refused(
    model_dir: Path, runtime: Runtime, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "offload")
    with pytest.raises(StorageError, match=f"engine.offload_folder={folder} cannot be written"):
        build(model_dir, auto("80KiB", offload_folder=folder), runtime)


def test_a_missing_package_is_named(
    model_dir: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_map.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs the package accelerate"):
        build(model_dir, auto(), runtime)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"device_map": "balanced"}, "engine.device_map=balanced; use none or auto"),
        ({"offload_folder": "here"}, "use engine.device_map=auto"),
        ({"max_memory": MaxMemoryConfig(host="1GiB")}, "use engine.device_map=auto"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        HfEngineConfig(**settings)


def test_a_size_is_a_number_and_a_unit() -> None:
    with pytest.raises(ConfigError, match=r"engine\.max_memory\.device=much; write a size such as"):
        MaxMemoryConfig(device="much")
