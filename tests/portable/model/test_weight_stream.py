"""Weights file by file: the same bytes as the format's own writer, and no more memory than a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from portable.core.errors import ArtefactError
from portable.model.weight_stream import INDEX, WEIGHTS, Fact, StoredWeights, weight_files, write_weights

TENSORS = {
    "b": torch.randn(3, 5),
    "a": torch.randn(7).bfloat16(),
    "c.x": torch.randn(2, 2).half(),
    "é": torch.randn(()),
}
FACTS = {name: Fact(tuple(tensor.shape), tensor.dtype) for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("step", [1, -1])
def test_the_bytes_are_those_of_the_formats_own_writer_in_any_order(tmp_path: Path, step: int):
    save_file(TENSORS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    write_weights(FACTS, list(TENSORS.items())[::step], tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_large_models_are_divided_into_files_with_an_index(tmp_path: Path):
    write_weights(FACTS, reversed(TENSORS.items()), tmp_path, max_shard_bytes=64)
    assert weight_files(tmp_path) == [INDEX, *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))]
    found = {}
    for file in weight_files(tmp_path)[1:]:
        found |= load_file(tmp_path / file)
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_boxes_are_read_by_place(tmp_path: Path):
    write_weights(FACTS, TENSORS.items(), tmp_path)
    stored = StoredWeights(tmp_path)
    assert stored.shapes == {"a": (7,), "b": (3, 5), "c.x": (2, 2), "é": ()}
    assert torch.equal(stored.box("b", (1, 2), (2, 3)), TENSORS["b"][1:3, 2:5])
    assert stored.box("b", (3, 0), (0, 5)).shape == (0, 5)
    assert torch.equal(stored.box("é", (), ()), TENSORS["é"])


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_reading_a_box_does_not_read_the_rest(tmp_path: Path):
    whole = torch.zeros(64_000, 500)
    write_weights({"w": Fact((64_000, 500), torch.float32)}, [("w", whole)], tmp_path)
    del whole
    stored = StoredWeights(tmp_path)
    before = resident_bytes()
    part = stored.box("w", (30_000, 0), (1_000, 500)).clone()
    assert float(part.sum()) == 0.0
    assert resident_bytes() - before < 30e6  # of 128 MB


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ([("a", TENSORS["a"])], "3 tensors never came, e.g. b"),
        ([("a", TENSORS["a"])] * 2, "'a' came twice"),
        ([("a", torch.zeros(8))], "'a' came twice or is unlike what was announced"),
        ([("z", torch.zeros(8))], "'z' came twice or is unlike what was announced"),
    ],
)
def test_what_was_not_announced_is_refused_and_leaves_no_file(tmp_path: Path, sent, told: str):
    with pytest.raises(ArtefactError, match=told):
        write_weights(FACTS, sent, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_files_do_not_know_is_refused(tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"torch.complex64 cannot be written; use one of torch.float32"):
        write_weights({"a": Fact((1,), torch.complex64)}, [], tmp_path)


def test_a_folder_that_lacks_a_file_or_holds_a_torn_one_is_refused(tmp_path: Path):
    with pytest.raises(ArtefactError, match=r"holds no model.safetensors and no"):
        StoredWeights(tmp_path)
    write_weights(FACTS, TENSORS.items(), tmp_path, max_shard_bytes=64)
    last = tmp_path / "model-00003-of-00003.safetensors"
    last.write_bytes(last.read_bytes()[:20])
    with pytest.raises(ArtefactError, match=r"is damaged \(.*\); write or fetch it again"):
        StoredWeights(tmp_path)
    last.unlink()
    with pytest.raises(ArtefactError, match=r"lacks 'model-00003-of-00003.safetensors'"):
        StoredWeights(tmp_path)
