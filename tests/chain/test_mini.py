"""The whole chain, once, through the command line."""

import json
import re

from tests.chain.chain import run_recipe

STAGES = ["data", "pretrain", "synth", "sft", "rl", "eval", "export"]


def test_every_stage_leaves_a_sealed_artefact_and_its_cost(mini) -> None:
    stages = mini.manifest["stages"]
    assert [stage["name"] for stage in stages] == STAGES
    for stage in stages:
        assert re.fullmatch(r"[0-9a-f]{64}", stage["digest"])
        assert not stage["reused"]
        assert stage["time_s"] > 0
        assert 0 < stage["peak_memory_bytes"] < 4 * 2**30


def test_the_run_records_its_circumstances(mini) -> None:
    for name in ("config.yaml", "environment.json", "run.log", "manifest.json", "report.json"):
        assert (mini.folder / name).is_file(), name
    assert (mini.folder.parent / "latest").resolve() == mini.folder
    assert (mini.folder / "sft").resolve() == mini.artefact("sft").resolve()
    assert "hardware:" in (mini.folder / "config.yaml").read_text()


def test_the_report_is_one_file_that_needs_nothing_else(mini) -> None:
    page = (mini.folder / "report.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page)
    assert str(mini.folder / "report.html") in mini.output.replace("\n", "")


def test_the_model_beats_the_byte_baseline_on_text_it_never_saw(mini) -> None:
    (pretrain,) = [stage for stage in mini.manifest["stages"] if stage["name"] == "pretrain"]
    assert pretrain["summary"]["bits_per_byte"] < pretrain["summary"]["unigram_bits_per_byte"]


def test_held_out_documents_are_not_in_the_training_text(mini) -> None:
    import zstandard

    ids = []
    for split in ("train", "heldout"):
        raw = (mini.artefact("data") / "documents" / f"{split}.jsonl.zst").read_bytes()
        text = zstandard.ZstdDecompressor().stream_reader(raw).read().decode()
        ids.append({json.loads(line)["id"] for line in text.splitlines()})
    assert ids[0]
    assert ids[1]
    assert not ids[0] & ids[1]


def test_scores_compare_three_models_with_counts_and_intervals(mini) -> None:
    scores = json.loads((mini.artefact("eval") / "scores.json").read_text())
    assert scores["models"] == ["base", "sft", "rl"]
    assert {task["name"] for task in scores["tasks"]} == {"bits_per_byte", "doc_qa", "arithmetic"}
    for task in scores["tasks"]:
        for score in task["scores"].values():
            assert score["count"] > 0
            assert score["low"] <= score["value"] <= score["high"]


def test_a_second_run_reuses_every_stage(mini, tmp_path) -> None:
    again = run_recipe(tmp_path / "run", mini.store)
    assert again.reused == STAGES
    assert again.digests == mini.digests


def test_another_reward_reuses_all_before_it(mini, tmp_path) -> None:
    other = run_recipe(tmp_path / "run", mini.store, "rl.steps=2")
    assert other.reused[:4] == ["data", "pretrain", "synth", "sft"]
    assert "rl" not in other.reused
    assert other.digests["rl"] != mini.digests["rl"]
