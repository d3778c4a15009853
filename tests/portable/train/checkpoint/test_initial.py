"""How a run begins: from a seed checkpoint or from a model folder, in any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from portable.core.errors import ArtefactError, ConfigError
from portable.model.init import new_model
from portable.model.weights import load_model, save_model
from portable.parallel.placement import Extent
from portable.testing.engine.tiny import make_tokenizer
from portable.train.checkpoint.initial import fill_weights, hf_fill
from portable.train.config import CheckpointConfig
from tests.portable.train.checkpoint import case_folder
from tests.portable.train.checkpoint.case_folder import SHAPE, fresh, tiny
from tests.portable.train.support import TinyModel, make_runtime, weights_hash
from tests.processes import run_processes

CASE = "tests.portable.train.checkpoint.case_folder"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("exported")
    report = run_processes(f"{CASE}:export_all", 2, folder / "results", str(folder))
    assert report[0] == report[1]
    return folder, report[0]


def test_every_layout_writes_the_same_folder_to_the_byte(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
):
    folder, report = exported
    model = new_model(SHAPE, make_runtime().kernels, 3)
    save_model(model, SHAPE, make_tokenizer(), tmp_path, max_shard_bytes=60_000)
    files = sorted(path.name for path in tmp_path.iterdir() if path.name != "tokenizer")
    assert sum(name.endswith(".safetensors") for name in files) > 2
    for layout, said in report.items():
        for name in files:
            assert (folder / layout / name).read_bytes() == (tmp_path / name).read_bytes(), (layout, name)
        assert said["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_every_layout_is_filled_from_a_folder_without_memory_for_the_whole(
    exported: tuple[Path, dict[str, Any]],
):
    _, report = exported
    whole = weights_hash(new_model(SHAPE, make_runtime().kernels, 3).state_dict())
    assert {said[key] for said in report.values() for key in ("own", "filled")} == {whole}


def test_a_box_of_a_weight_is_read_by_our_name(exported: tuple[Path, dict[str, Any]]):
    folder, _ = exported
    model, _ = load_model(folder / "zero3", make_runtime().kernels)
    fill = hf_fill(folder / "zero3")
    box = fill("blocks.1.mlp.up.weight", (45, 32), Extent((23, 4), (22, 5)))
    assert torch.equal(box, model.blocks["1"].mlp.up.weight[23:45, 4:9])


def test_a_folder_of_another_shape_is_refused_by_the_first_weight_that_differs(
    exported: tuple[Path, dict[str, Any]],
):
    runtime = make_runtime()
    fill = hf_fill(exported[0] / "ddp")
    with pytest.raises(ArtefactError, match=r"'embed.weight' has shape \(307, 32\), but .* \(300, 32\)"):
        fill("embed.weight", (300, 32), Extent((0, 0), (300, 32)))
    with pytest.raises(ArtefactError, match=r"'blocks.3.mlp.up.weight' is missing"):
        fill("blocks.3.mlp.up.weight", (45, 32), Extent((0, 0), (45, 32)))
    model = fresh(runtime, 8)
    fill_weights(model, fill)
    assert weights_hash(model.whole_weights()) == exported[1]["ddp"]["own"]


def seed_run(folder: Path) -> Path:
    trainer = tiny(make_runtime(), folder, seed=5, create_seed=True)
    trainer.fit()
    assert trainer.step == 0
    assert trainer.source.next_row == 0
    return folder


def test_a_seed_run_writes_a_checkpoint_and_trains_nothing(tmp_path: Path):
    seed_run(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000000"]
    seed_run(tmp_path)  # again: it stands already


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("seed")
    place = seed_run(folder / "seed")
    return run_processes(f"{CASE}:start_from_seed", 2, folder / "results", str(folder), str(place))[0]


def test_every_layout_starts_from_the_seed_and_goes_the_same_way(started: dict[str, Any]):
    seeded = weights_hash(TinyModel(5).state_dict())
    assert started.keys() == case_folder.DATA_ONLY.keys()
    assert {said["began"] for said in started.values()} == {seeded}
    assert {said["step"] for said in started.values()} == {4}
    for said in started.values():
        assert said["head"] == pytest.approx(started["ddp"]["head"], abs=2e-5)


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/step-00000000"])
def test_the_run_its_checkpoints_or_one_of_them_may_be_named(tmp_path: Path, place: str):
    seed = seed_run(tmp_path / "seed")
    trainer = tiny(make_runtime(), tmp_path / "new", seed=9, initial_load_path=str(seed / place))
    trainer.resume()
    assert weights_hash(trainer.module.state_dict()) == weights_hash(TinyModel(5).state_dict())
    trainer.fit()
    again = tiny(make_runtime(), tmp_path / "new", seed=9, initial_load_path=str(seed / place))
    again.resume()  # its own checkpoint comes first
    assert again.step == 4


def test_a_place_without_a_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"initial_load_path=.* holds no whole checkpoint; name a folder"):
        tiny(make_runtime(), tmp_path / "new", seed=9, initial_load_path=str(tmp_path)).fit()
    with pytest.raises(ConfigError, match="initial_load_in_hf=true needs"):
        CheckpointConfig(initial_load_in_hf=True)
