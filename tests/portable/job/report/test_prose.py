"""Sentences: right numbers, right grammar, and no flattery."""

from typing import Any

import pytest

from portable.job.report import prose


def test_headlines_say_what_a_stage_made():
    assert prose.headline("data", {"documents": 1200, "train_tokens": 2_000_000, "vocab_size": 4096}) == (
        "1,200 documents, 2M training tokens, vocabulary of 4,096"
    )
    assert prose.headline("pretrain", {"parameters": 4_980_000, "bits_per_byte": 2.1}) == (
        "4.98M parameters, 2.100 bits per byte on held-out text"
    )
    assert prose.headline("synth", {"train": 40, "heldout": 2}) == "40 question-answer pairs, 2 more held out"
    assert prose.headline("sft", {"f1_before": 0.041, "f1_after": 0.352}).startswith("answer F1 0.04 → 0.35")
    assert prose.headline("rl", {"reward_start": [0.0, 0.1], "reward_end": [0.5, 0.7]}) == (
        "sampled reward 0.05 → 0.60, mean of 2 seeds"
    )
    assert prose.headline("eval", {"a": {"base": 0.1}, "b": {"base": 0.2}}) == "1 model on 2 tasks"
    assert "3.1e-06" in prose.headline("export", {"max_logit_difference": 3.1e-6})


@pytest.mark.parametrize("verb", [*prose.VERB_TITLES, "distil"])
def test_headline_of_an_unforeseen_summary_shows_its_first_numbers(verb: str):
    summary = {"num_pages": 3, "share": 0.123456, "note": "x", "more": 1}
    assert prose.headline(verb, summary) == "num pages 3, share 0.1235, note x"
    assert prose.headline(verb, {}) == ""


def compare(model: float, unigram: float | None = None, xz: float | None = None) -> str:
    summary = {"bits_per_byte": model, "unigram_bits_per_byte": unigram, "xz_bits_per_byte": xz}
    return prose.compression_sentence(summary)


def test_model_that_wins_is_ahead_of_both_codes():
    text = compare(1.5, 4.0, 2.0)
    assert "so the model saves 62%" in text
    assert "the model is ahead by 25%" in text


def test_model_that_loses_against_xz_is_said_to_lose():
    text = compare(2.0, 4.0, 1.5)
    assert "so the model saves 50%" in text
    assert "still the better compressor, by 25%" in text
    assert "ahead" not in text


def test_model_that_learnt_nothing_is_said_so():
    assert "has not beaten even that" in compare(5.0, 4.0, 1.5)


def test_missing_baselines_are_not_invented():
    assert compare(2.0) == "The model spends 2.000 bits on a byte of text it has never seen."
    assert prose.compression_sentence({"parameters": 3}) == ""


def test_compressor_is_also_shown_without_the_training_text():
    summary = {"bits_per_byte": 2.0, "xz_bits_per_byte": 1.5, "xz_alone_bits_per_byte": 2.4}
    assert "needs 1.500 (2.400 without it)" in prose.compression_sentence(summary)


def seed(number: int, start: float, end: float) -> dict[str, Any]:
    return {"seed": number, "reward_start": start, "reward_end": end}


def test_reward_sentence_names_the_worst_seed_too():
    text = prose.reward_sentence([seed(0, 0.05, 0.9), seed(1, 0.04, 0.31)])
    assert "All 2 seeds" in text
    assert "between 0.04 and 0.05" in text
    assert "between 0.31 and 0.90" in text
    assert prose.reward_sentence([seed(0, 0.05, 0.9)]).startswith("One seed was run")


def test_teacher_is_named_for_what_it_is():
    assert prose.teacher_line("extractive") == "extractive (rules, no language model)"
    assert prose.teacher_line("own") == "own"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/home/x/.venv/bin/portable run recipe=quickstart", "portable run recipe=quickstart"),
        ("/x/portable/__main__.py run -m", "python -m portable run -m"),
        ("C:\\Scripts\\portable run", "portable run"),
        ("portable", "portable"),
    ],
)
def test_command_is_shown_as_typed(command: str, shown: str):
    assert prose.shown_command(command) == shown


def test_moment_is_written_out():
    assert prose.when("2026-11-04T14:05:09+00:00") == "4 November 2026, 14:05 UTC"


def test_device_line_holds_what_is_known():
    device = {"name": "cpu", "vendor": "x", "arch": "avx2", "num_cores": 2, "total_bytes": 2**34}
    assert prose.device_line(device) == "cpu, avx2, 2 cores, 16.0 GiB"
    assert prose.device_line({"name": "sim", "num_cores": 1}) == "sim, 1 core"


def report(*verbs: str, reused: int = 0) -> dict[str, Any]:
    stages = [{"verb": verb, "reused": index < reused} for index, verb in enumerate(verbs)]
    return {"stages": stages, "total_time_s": 404.0, "peak_memory_bytes": 2**30}


def test_opening_tells_from_where_to_where():
    text = prose.opening(report("data", "pretrain", "sft", "rl")).replace("\N{NO-BREAK SPACE}", " ")
    assert text == "From raw text to an RL-tuned model in 6 min 44 s, with at most 1.0 GiB of memory."
    assert prose.opening(report("data", "pretrain")).startswith("From raw text to a pretrained model")
    assert prose.opening(report("sft")).startswith("1 stage in")


def test_opening_admits_reuse():
    assert "1 stage stood ready from an earlier run, and counts" in prose.opening(
        report("data", "sft", reused=1)
    )
    assert "2 stages stood ready from an earlier run, and count with" in prose.opening(
        report("data", "sft", reused=2)
    )


def test_numbers_are_written_out_below_a_million():
    assert [prose.number(value) for value in (212, 98_211, 1_310_720)] == ["212", "98,211", "1.31M"]
