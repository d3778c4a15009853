"""Against a real HTTP server on loopback that plays the model."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portable.core.errors import BackendUnavailable, ConfigError
from portable.core.record import Document
from portable.synth.teacher.config import OpenAiTeacherConfig
from portable.synth.teacher.openai import OpenAiTeacher, choose_passage
from portable.synth.teacher.protocol import Outcome

FakeTeacher = Any  # the fixture's class, which a conftest cannot export
FAULTS = {
    "number 1.": "rate_limited",
    "number 2.": "server_error",
    "number 3.": "broken_json",
    "number 4.": "no_json",
    "number 5.": "wrong_schema",
    "number 6.": "invented",
    "number 7.": "cut_off",
    "number 8.": "one_pair",
}


def ask(
    config: OpenAiTeacherConfig, documents: list[Document], cache: Path, seed: int = 0
) -> tuple[list[Outcome], dict[str, int]]:
    teacher = OpenAiTeacher(config, seed=seed, cache_dir=cache)
    try:
        return list(teacher.ask(documents)), teacher.usage()
    finally:
        teacher.close()


def test_pairs_carry_the_span_that_bears_them_out(
    teacher_config: OpenAiTeacherConfig, pages: list[Document], tmp_path: Path
):
    outcomes, usage = ask(teacher_config, pages[:3], tmp_path)
    texts = {page.id: page.text for page in pages}
    pairs = [outcome.pair for outcome in outcomes if outcome.pair]
    assert len(pairs) == len(outcomes) == 6
    for pair in pairs:
        assert texts[pair.document_id][pair.start : pair.end].split() == pair.answer.split()
        assert pair.grounding == 1.0
    assert usage == {"calls": 3, "cache_hits": 0, "prompt_tokens": 21, "completion_tokens": 9}


def test_every_fault_is_counted_under_its_reason(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    fake_teacher.faults = FAULTS
    outcomes, _ = ask(teacher_config, pages[:10], tmp_path)
    assert len(outcomes) == 20
    reasons = Counter((outcome.document_id, outcome.reason, outcome.failed) for outcome in outcomes)
    good = {("page-0", "", False): 2, ("page-1", "", False): 2, ("page-9", "", False): 2}
    bad = {
        ("page-2", "http_500", True): 2,
        ("page-3", "broken_json", False): 2,
        ("page-4", "no_json", False): 2,
        ("page-5", "wrong_schema", False): 2,
        ("page-6", "not_grounded", False): 2,
        ("page-7", "finish_length", False): 2,
        ("page-8", "", False): 1,
        ("page-8", "too_few_pairs", False): 1,
    }
    assert reasons == good | bad
    assert [outcome.document_id for outcome in outcomes[::2]] == [page.id for page in pages[:10]]


def test_a_server_error_is_tried_again_as_often_as_asked(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    fake_teacher.faults = {"number 0.": "server_error"}
    ask(teacher_config, pages[:1], tmp_path)
    assert list(fake_teacher.attempts.values()) == [1 + teacher_config.retries]


def test_neither_concurrency_nor_arrival_order_changes_the_outcome(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    fake_teacher.faults = FAULTS
    alone, _ = ask(replace(teacher_config, concurrency=1), pages, tmp_path / "one")
    fake_teacher.attempts.clear()
    fake_teacher.delay_s = lambda prompt: (sum(map(ord, prompt)) % 7) / 200
    together, _ = ask(replace(teacher_config, concurrency=16), pages, tmp_path / "many")
    assert alone == together


def test_a_rerun_asks_only_what_failed(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    fake_teacher.faults = FAULTS
    first, _ = ask(teacher_config, pages[:10], tmp_path)
    fake_teacher.faults = {}
    fake_teacher.bodies.clear()
    second, usage = ask(teacher_config, pages[:10], tmp_path)
    assert (usage["calls"], usage["cache_hits"], len(fake_teacher.bodies)) == (1, 9, 1)
    differing = {old.document_id for old, new in zip(first, second, strict=True) if old != new}
    assert differing == {"page-2"}


def test_another_prompt_is_another_request(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    ask(teacher_config, pages[:2], tmp_path)
    ask(replace(teacher_config, questions_per_document=1), pages[:2], tmp_path)
    ask(replace(teacher_config, temperature=0.5), pages[:2], tmp_path)
    ask(teacher_config, pages[:2], tmp_path, seed=1)
    assert len(fake_teacher.bodies) == 8


def test_the_request_holds_what_was_configured(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    ask(replace(teacher_config, temperature=0.25, max_tokens=99), pages[:1], tmp_path / "a")
    ask(replace(teacher_config, json_mode=False), pages[:1], tmp_path / "b")
    first, second = fake_teacher.bodies
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("fake-1", 0.25, 99)
    assert first["response_format"] == {"type": "json_object"}
    assert "response_format" not in second
    assert isinstance(first["seed"], int)


def test_an_endpoint_that_mostly_fails_ends_the_run(
    teacher_config: OpenAiTeacherConfig, fake_teacher: FakeTeacher, pages: list[Document], tmp_path: Path
):
    fake_teacher.faults = {"tree": "server_error"}  # every page has one
    with pytest.raises(BackendUnavailable, match="failed 20 of 20 requests, the last with 'http_500'"):
        ask(replace(teacher_config, retries=0), pages, tmp_path / "at once")
    teacher = OpenAiTeacher(replace(teacher_config, retries=0), seed=0, cache_dir=tmp_path / "in rounds")
    for page in pages[:19]:
        assert [outcome.failed for outcome in teacher.ask([page])] == [True, True]
    with pytest.raises(BackendUnavailable, match="failed 20 of 20"):
        list(teacher.ask(pages[19:20]))


def test_an_unknown_model_ends_the_run_at_once(
    teacher_config: OpenAiTeacherConfig, pages: list[Document], tmp_path: Path
):
    with pytest.raises(BackendUnavailable, match=r"refuses to serve teacher\.model=other"):
        ask(replace(teacher_config, model="other"), pages[:1], tmp_path)


def test_nobody_listening_is_a_failure(pages: list[Document], tmp_path: Path):
    config = OpenAiTeacherConfig(base_url="http://127.0.0.1:9/v1", model="m", api_key_env="", retries=0)
    outcomes, _ = ask(config, pages[:1], tmp_path)
    assert [(outcome.reason, outcome.failed) for outcome in outcomes] == [("connection", True)] * 2


def test_the_key_comes_from_the_environment_and_is_not_stored(
    teacher_config: OpenAiTeacherConfig,
    fake_teacher: FakeTeacher,
    pages: list[Document],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = replace(teacher_config, api_key_env="TEACHER_KEY_FOR_TEST")
    with pytest.raises(ConfigError, match="TEACHER_KEY_FOR_TEST"):
        OpenAiTeacher(config, seed=0, cache_dir=tmp_path)
    monkeypatch.setenv("TEACHER_KEY_FOR_TEST", "sk-secret")
    ask(config, pages[:1], tmp_path)
    assert fake_teacher.keys == {"Bearer sk-secret"}
    assert all(b"sk-secret" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_long_document_shows_one_passage_drawn_by_seed():
    paragraphs = [f"Paragraph {number} tells of {number} things." for number in range(50)]
    document = Document("\n\n".join(paragraphs), "long")
    spans = {choose_passage(document, 200, seed) for seed in range(20)}
    assert choose_passage(document, 200, 3) == choose_passage(document, 200, 3)
    assert len(spans) > 1
    assert all(
        span.end - span.start == 200 and document.text[span.start :].startswith("Paragraph") for span in spans
    )
    assert choose_passage(document, 10**6, 0).end == len(document.text)
