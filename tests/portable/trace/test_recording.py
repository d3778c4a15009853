"""The file of a trace."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from portable.core.errors import ArtefactError
from portable.trace import recording as module
from portable.trace.recording import Node, Recording
from portable.trace.summary import distance, summarise


def make_recording() -> Recording:
    x = summarise(torch.arange(6.0).view(2, 3))
    ids = summarise(torch.tensor([1, 2]))
    return Recording(
        {"verb": "pretrain", "loss": 2.5},
        [
            Node("mlp:swiglu", "reference", {"gate": x}, {"": x}, {"": x}, {"gate": x}, 0),
            Node("(model)", inputs={"ids": ids}, outputs={"": x}),
        ],
        {"weight": x},
        {"weight": summarise(torch.ones(2, 3))},
        [2.5],
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = make_recording()
    written.save(tmp_path / "step.trace")
    read = Recording.load(tmp_path / "step.trace")
    assert read.header == written.header
    assert read.losses == [2.5]
    assert [(node.name, node.row, node.backward_place) for node in read.nodes] == [
        ("mlp:swiglu", "reference", 0),
        ("(model)", "", -1),
    ]
    assert read.nodes[0].grad_inputs["gate"].facts() == written.nodes[0].grad_inputs["gate"].facts()
    assert distance(read.gradients["weight"], written.gradients["weight"]) == 0.0
    assert torch.equal(read.gradients["weight"].sketch, written.gradients["weight"].sketch)
    assert list(read.batch()) == ["ids"]


def test_equal_tensors_share_a_sketch(tmp_path: Path) -> None:
    make_recording().save(tmp_path / "step.trace")
    assert (tmp_path / "step.trace").stat().st_size < 3 * 257 * 4 + 4096


def test_a_node_knows_its_module() -> None:
    assert Node("blocks.3.mlp:swiglu", "native").module == "blocks.3.mlp"
    assert Node("blocks.3.mlp#2:swiglu#3", "native").module == "blocks.3.mlp"
    assert Node("blocks.3.mlp:swiglu", "native").is_kernel
    assert not Node("blocks.3.mlp").is_kernel


def test_files_that_are_no_trace_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtefactError, match="does not exist; make one with portable trace record"):
        Recording.load(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtefactError, match="is no trace, or a damaged one"):
        Recording.load(tmp_path / "text")
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtefactError, match="is no trace"):
        Recording.load(tmp_path / "other.safetensors")
    monkeypatch.setattr(module, "FORMAT", 0)
    make_recording().save(tmp_path / "old")
    monkeypatch.undo()
    with pytest.raises(ArtefactError, match="has format 0, this version reads 1; record it again"):
        Recording.load(tmp_path / "old")
