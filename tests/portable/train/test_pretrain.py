"""The stage, on a corpus of a few sentences: what it leaves, what it reports, and that a killed one ends the
same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from portable.core.artefact import open_artefact, seal
from portable.core.errors import ArtefactError, ConfigError
from portable.core.metric import JsonlSink, read_metrics
from portable.core.record import Document
from portable.data.config import TokenizerConfig
from portable.data.format.corpus import LineWriter
from portable.data.mixture.config import CorpusConfig
from portable.data.shard import ShardWriter
from portable.data.tokenizer import train_tokenizer
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model
from portable.train.pretrain import run_pretrain
from portable.train.pretrain_config import ModelSource, PretrainConfig
from tests.portable.train.case_train import pretrain_config
from tests.portable.train.support import make_runtime, workspace
from tests.processes import run_processes, start

CASE = "tests.portable.train.case_train:pretrain"
NOUNS, VERBS = (
    ("list", "string", "number", "file", "set", "dict"),
    ("returns", "copies", "opens", "sorts", "joins"),
)


def sentences() -> list[str]:
    return [
        f"The method {verb} a {noun}, and then {other} the {third}."
        for noun in NOUNS
        for verb in VERBS
        for third in NOUNS
        for other in VERBS[:2]
    ]


def make_corpus(path: Path, texts: dict[str, list[str]], tokenizer: Tokenizer) -> Path:
    tokenizer.save(path / "tokenizer")
    for side, lines in texts.items():
        with LineWriter(path / "documents" / f"{side}.jsonl.zst") as writer:
            for number, text in enumerate(lines):
                writer.write_document(Document(text, f"{side}-{number}"))
        with ShardWriter(
            path / "tokens" / side, vocab_size=tokenizer.vocab_size, end_of_text_id=tokenizer.end_of_text_id
        ) as shards:
            for text in lines:
                shards.add([*tokenizer.encode(text), tokenizer.end_of_text_id], len(text.encode()))
    seal(path, "corpus", ["documents", "tokenizer", "tokens"])
    return path


def learn(texts: list[str], vocab_size: int) -> Tokenizer:
    return train_tokenizer(texts, TokenizerConfig(vocab_size=vocab_size))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = {"train": sentences()[::2], "heldout": sentences()[1::24]}
    return make_corpus(tmp_path_factory.mktemp("corpus"), texts, learn(texts["train"], 290))


@pytest.fixture(scope="module")
def other(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus in capitals, in the tokens of the first."""
    texts = [text.upper() for text in sentences()[:40]]
    path = tmp_path_factory.mktemp("other")
    return make_corpus(path, {"train": texts, "heldout": texts[::8]}, Tokenizer.load(corpus / "tokenizer"))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("model")
    space = workspace(path, JsonlSink(path / "metrics.jsonl"))
    return run_pretrain(pretrain_config(str(corpus)), make_runtime(), space)


def test_a_model_folder_is_sealed_that_loads_again(finished):
    artefact = open_artefact(finished.path, "model", verify=True)
    model, config = load_model(finished.path, make_runtime().kernels)
    assert config.vocab_size == 300
    assert sum(parameter.numel() for parameter in model.parameters()) == artefact.summary["parameters"]
    files = set(json.loads((finished.path / "artefact.json").read_text())["files"])
    assert files == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_summary_says_where_the_model_stands(finished):
    summary = finished.summary
    assert summary["steps"] == 12
    assert summary["train_tokens_seen"] == 12 * 8 * 32
    assert summary["bits_per_byte"] < summary["unigram_bits_per_byte"] < 5
    assert summary["beats_unigram"] is True
    assert summary["xz_bits_per_byte"] < summary["xz_alone_bits_per_byte"]
    assert summary["beats_xz"] is (summary["bits_per_byte"] < summary["xz_bits_per_byte"])


def test_the_curve_has_loss_and_held_out_figures(finished):
    rows = read_metrics(finished.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {row["step"] for row in rows if "heldout_bits_per_byte" in row} == {6, 12}
    assert rows[-1]["heldout_bits_per_byte"] == finished.summary["bits_per_byte"]  # of all documents


def test_a_run_that_was_cut_ends_with_the_same_payload(finished, corpus: Path, tmp_path: Path):
    process = start(CASE, (0, 1, 0), tmp_path / "results", str(corpus), str(tmp_path / "model"), "7")
    process.communicate(timeout=120)
    assert not (tmp_path / "model" / "artefact.json").exists()
    assert (tmp_path / "model" / "checkpoints").is_dir()
    ended = run_processes(CASE, 1, tmp_path / "results", str(corpus), str(tmp_path / "model"))[0]
    assert ended == {"digest": finished.digest, "summary": finished.summary}


def test_two_ranks_train_the_same_model(finished, corpus: Path, tmp_path: Path):
    first, second = run_processes(CASE, 2, tmp_path / "results", str(corpus), str(tmp_path / "model"))
    assert first == second
    assert first["summary"]["bits_per_byte"] == pytest.approx(finished.summary["bits_per_byte"], abs=1e-4)
    single, spread = (
        load_model(path, make_runtime().kernels)[0] for path in (finished.path, tmp_path / "model")
    )
    for own, other in zip(single.parameters(), spread.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-3)


def test_a_vocabulary_without_room_for_the_corpus_is_refused(corpus: Path, tmp_path: Path):
    config = pretrain_config(str(corpus))
    config.model.vocab_size = 280
    with pytest.raises(
        ConfigError, match=r"model.vocab_size=280 has no room for the 290 tokens .* at least 290"
    ):
        run_pretrain(config, make_runtime(), workspace(tmp_path))


def test_an_input_that_is_no_corpus_is_refused(finished, tmp_path: Path):
    with pytest.raises(ArtefactError, match="is of kind 'model', but 'corpus' is needed"):
        run_pretrain(pretrain_config(str(finished.path)), make_runtime(), workspace(tmp_path))


def mixed(*folders: Path, **settings: Any) -> PretrainConfig:
    corpora = [
        CorpusConfig(data=str(folder), weight=1 / len(folders), name=folder.name[:5]) for folder in folders
    ]
    return pretrain_config("", mixture=corpora, **settings)


def test_a_mixture_is_read_in_its_shares_and_scored_by_corpus(corpus: Path, other: Path, tmp_path: Path):
    config = mixed(corpus, other)
    config.mixture[1].epochs = 0.5
    space = workspace(tmp_path, JsonlSink(tmp_path / "metrics.jsonl"))
    summary = run_pretrain(config, make_runtime(), space).summary
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[0]["corpus/corpu/samples"] == rows[0]["corpus/other/samples"] == 4
    assert rows[-1]["corpus/corpu/samples"] + rows[-1]["corpus/other/samples"] == 96
    assert 0.4 < rows[-1]["corpus/other/epochs"] <= 0.5
    own = [rows[-1][f"corpus/{name}/heldout_bits_per_byte"] for name in ("corpu", "other")]
    assert min(own) < summary["bits_per_byte"] == rows[-1]["heldout_bits_per_byte"] < max(own)


def test_corpora_of_different_tokenizers_are_refused(corpus: Path, tmp_path: Path):
    texts = {"train": sentences(), "heldout": sentences()[:3]}
    stranger = make_corpus(tmp_path / "stranger", texts, learn(texts["train"], 270))
    with pytest.raises(ConfigError, match=r"corpu and stran .* different tokenizers.*data.tokenizer.path="):
        run_pretrain(mixed(corpus, stranger), make_runtime(), workspace(tmp_path / "model"))


def test_a_run_that_a_mixture_cannot_feed_is_refused(corpus: Path, other: Path, tmp_path: Path):
    config = mixed(corpus, other)
    for part in config.mixture:
        part.epochs = 0.5
    with pytest.raises(ConfigError, match=r"but the run asks for 96; use steps=\d+ or less"):
        run_pretrain(config, make_runtime(), workspace(tmp_path))


def test_reading_ahead_changes_nothing(finished, corpus: Path, tmp_path: Path):
    config = pretrain_config(str(corpus), prefetch_batches=0)
    assert run_pretrain(config, make_runtime(), workspace(tmp_path)).digest == finished.digest


@pytest.mark.parametrize("source", ["auto", "transformers"])
def test_a_run_continues_from_a_folder_and_leaves_its_like(source: str, corpus: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=301, max_position_embeddings=48, **shape))
    model.save_pretrained(tmp_path / "in")
    changes = {"model_path": str(tmp_path / "in"), "model_source": ModelSource[source], "steps": 4}
    config = pretrain_config(str(corpus), **changes, eval_every_steps=0)
    artefact = run_pretrain(config, make_runtime(), workspace(tmp_path / "out"))
    theirs = AutoModelForCausalLM.from_pretrained(artefact.path)
    moved = (theirs.lm_head.weight - model.lm_head.weight).abs().max().item()
    assert 0 < moved < 4 * 0.01 * 2  # from where the folder was, by steps of the learning rate
    assert artefact.summary["parameters"] == sum(value.numel() for value in model.parameters())


def test_a_row_longer_than_the_folder_of_a_model_is_refused(corpus: Path, tmp_path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=301, max_position_embeddings=16, **shape))
    model.save_pretrained(tmp_path / "in")
    config = pretrain_config(str(corpus), model_path=str(tmp_path / "in"))
    with pytest.raises(ConfigError, match="seq_len of at most 16"):
        run_pretrain(config, make_runtime(), workspace(tmp_path / "out"))
