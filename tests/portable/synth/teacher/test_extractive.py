from dataclasses import replace
from pathlib import Path

from portable.core.record import Document
from portable.synth.sentence import fold
from portable.synth.teacher.config import ExtractiveTeacherConfig
from portable.synth.teacher.extractive import ExtractiveTeacher
from portable.synth.teacher.protocol import Outcome


def ask(documents: list[Document], count: int = 2, seed: int = 0) -> list[Outcome]:
    teacher = ExtractiveTeacher(
        ExtractiveTeacherConfig(questions_per_document=count), seed=seed, cache_dir=Path()
    )
    teacher.prepare(documents)
    return list(teacher.ask(documents))


def test_every_answer_is_the_span_it_names(pages: list[Document]):
    texts = {page.id: page.text for page in pages}
    pairs = [outcome.pair for outcome in ask(pages, count=5) if outcome.pair]
    assert {pair.rule for pair in pairs} == {"purpose", "signature", "package", "module", "reverse"}
    assert all(fold(texts[pair.document_id][pair.start : pair.end]) == pair.answer for pair in pairs)


def test_each_document_answers_for_as_many_outcomes_as_were_asked(pages: list[Document]):
    outcomes = ask([*pages, Document("?!", "empty")], count=9)
    assert len(outcomes) == 9 * 41
    assert [outcome.reason for outcome in outcomes[-9:]] == ["no_rule"] * 9


def test_the_purpose_is_asked_for_first(pages: list[Document]):
    assert {outcome.pair.rule for outcome in ask(pages, count=1) if outcome.pair} == {"purpose"}


def test_what_is_asked_depends_on_seed_and_document_alone(pages: list[Document]):
    assert ask(pages) == ask(pages)
    assert ask(pages) != ask(pages, seed=1)
    backwards = sorted(ask(pages[::-1]), key=lambda outcome: int(outcome.document_id[5:]))
    assert backwards == ask(pages)


def test_a_sentence_of_two_documents_is_not_asked_back(pages: list[Document]):
    twin = replace(
        pages[0],
        id="twin",
        text=pages[0].text.replace("call0(", "other("),
        metadata={**pages[0].metadata, "name": "other"},
    )
    rules = [
        outcome.pair.rule
        for outcome in ask([pages[0], twin], count=4)
        if outcome.pair and outcome.pair.document_id == "page-0"
    ]
    assert "purpose" in rules
    assert "reverse" not in rules
