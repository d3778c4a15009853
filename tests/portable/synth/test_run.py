import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portable.core.artefact import open_artefact
from portable.core.errors import DataError
from portable.core.record import Conversation, Document
from portable.core.workspace import Workspace
from portable.synth.config import SynthConfig
from portable.synth.gate import Gate
from portable.synth.run import collect_pairs, draw_documents, run_synth
from portable.synth.teacher.config import ExtractiveTeacherConfig, OpenAiTeacherConfig
from portable.synth.teacher.extractive import ExtractiveTeacher


@pytest.fixture
def config(corpus: Path) -> SynthConfig:
    return SynthConfig(data=str(corpus), teacher=ExtractiveTeacherConfig(), max_train=40, max_heldout=12)


def read(path: Path, split: str) -> list[Conversation]:
    lines = (path / "conversations" / f"{split}.jsonl").read_text().splitlines()
    return [Conversation.from_json(json.loads(line)) for line in lines]


def test_each_split_asks_about_its_own_documents(config: SynthConfig, tmp_path: Path):
    artefact = run_synth(config, Workspace(tmp_path / "out"))
    train, heldout = read(artefact.path, "train"), read(artefact.path, "heldout")
    assert (len(train), len(heldout)) == (40, 12)
    assert {item.metadata["document_id"] for item in train} <= {f"page-{n}" for n in range(30)}
    assert {item.metadata["document_id"] for item in heldout} <= {f"page-{n}" for n in range(30, 40)}
    assert [message.role for message in train[0].messages] == ["user", "assistant"]
    assert len({item.messages[0].content for item in train + heldout}) == 52
    assert open_artefact(artefact.path, "conversations", verify=True).summary["train"] == 40


def test_the_account_adds_up(config: SynthConfig, tmp_path: Path):
    artefact = run_synth(replace(config, max_answer_chars=32), Workspace(tmp_path / "out"))
    summary = json.loads((artefact.path / "summary.json").read_text())
    for counts in (summary["train"], summary["heldout"], artefact.summary):
        assert counts["requested"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    assert summary["train"]["rejected"] == sum(summary["train"]["rejected_by_reason"].values()) > 0
    samples = json.loads((artefact.path / "samples.json").read_text())
    assert {sample["split"] for sample in samples} == {"train", "heldout"}


def test_the_same_settings_give_the_same_payload(config: SynthConfig, tmp_path: Path):
    digests = [run_synth(config, Workspace(tmp_path / name)).digest for name in ("a", "b", "a")]
    assert len(set(digests)) == 1
    assert run_synth(replace(config, seed=1), Workspace(tmp_path / "c")).digest not in digests


def test_a_model_teacher_fills_the_same_files(
    config: SynthConfig, teacher_config: OpenAiTeacherConfig, fake_teacher: Any, tmp_path: Path
):
    fake_teacher.faults = {"number 7.": "server_error", "number 9.": "invented", "number 33.": "broken_json"}
    config = replace(config, teacher=replace(teacher_config, retries=0))
    artefact = run_synth(config, Workspace(tmp_path / "out"))
    summary = artefact.summary
    assert summary["requested"] == summary["accepted"] + summary["rejected"] + summary["failed"]
    assert (summary["train"], summary["heldout"]) == (40, 12)
    assert {item.metadata["rule"] for item in read(artefact.path, "train")} == {"model"}
    calls = len(fake_teacher.bodies)
    assert calls == fake_teacher.unique_prompts
    # A second run, as after a kill, asks again only for what failed, and ends with the same bytes.
    assert run_synth(config, Workspace(tmp_path / "out")).digest == artefact.digest
    assert len(fake_teacher.bodies) - calls == sum(item["failed"] for item in (summary,)) // 2
    assert json.loads((tmp_path / "out" / "usage.json").read_text())["cache_hits"] > 0


def test_rounds_ask_no_more_documents_than_are_needed(config: SynthConfig, pages: list[Document]):
    teacher = ExtractiveTeacher(config.teacher, seed=0, cache_dir=Path())
    pairs, ledger = collect_pairs(teacher, pages, 7, Gate(config), 2)
    assert len(pairs) == 7
    assert ledger.requested == 8
    assert ledger.to_json()["rejected_by_reason"] == {"limit_reached": 1}


def test_documents_are_drawn_whatever_their_order(pages: list[Document]):
    drawn = draw_documents(iter(pages), 10, seed=4)
    assert drawn == draw_documents(iter(pages[::-1]), 10, seed=4)
    assert len(drawn) == 10
    assert drawn != draw_documents(iter(pages), 10, seed=5)


def test_a_limit_on_documents_is_kept(config: SynthConfig, tmp_path: Path):
    artefact = run_synth(replace(config, max_documents=5), Workspace(tmp_path / "out"))
    assert len({item.metadata["document_id"] for item in read(artefact.path, "train")}) == 5
    assert artefact.summary["train"] == 10


def test_a_split_without_a_pair_is_an_error(config: SynthConfig, tmp_path: Path):
    with pytest.raises(DataError, match="no train pair out of 60 requested"):
        run_synth(replace(config, min_answer_chars=110), Workspace(tmp_path / "out"))
    assert not (tmp_path / "out" / "artefact.json").exists()
