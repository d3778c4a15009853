import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from portable.core.errors import DataError
from portable.core.record import Conversation, Message
from portable.eval.generate import Question, answer_questions, draw_sample, read_conversations, to_questions
from portable.eval.task.protocol import Subject

TURNS = (
    Message("system", "s"),
    Message("user", "u"),
    Message("assistant", "a"),
    Message("user", "v"),
    Message("assistant", "b"),
)


def ask(text: str) -> Question:
    return Question((Message("user", text),), "")


def test_conversations_are_read_as_they_were_written(tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Grüße"}]})
        + "\n\n"
        + json.dumps(Conversation(TURNS, "x").to_json())
    )
    first, second = read_conversations(file)
    assert (first.id, first.messages[0].content) == ("line-1", "Grüße")
    assert second == Conversation(TURNS, "x")


@pytest.mark.parametrize("line", ["{broken", '{"text": "x"}', '{"messages": [{"role": "user"}]}', "[1]"])
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: str):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"messages": []}\n' + line + "\n")
    with pytest.raises(DataError, match=r"mine\.jsonl, line 2, is not a conversation"):
        read_conversations(file)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"none.jsonl does not exist"):
        read_conversations(tmp_path / "none.jsonl")


def test_the_question_is_what_comes_before_the_first_answer(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "portable"):
        questions = to_questions([Conversation(TURNS, "x"), Conversation(TURNS[:2], "y")])
    assert [(question.prompt, question.reference, question.text) for question in questions] == [
        (TURNS[:2], "a", "u")
    ]
    assert "1 conversations have no assistant turn" in caplog.text


def test_a_sample_is_drawn_by_seed_and_keeps_its_order():
    items = list(range(50))
    drawn = draw_sample(items, 10, seed=0)
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn == draw_sample(items, 10, seed=0) != draw_sample(items, 10, seed=1)
    assert draw_sample(items, 50, seed=0) == items


def test_answers_are_greedy_end_at_a_stop_token_and_are_stripped(with_rule: Callable[..., Subject]):
    engine = with_rule(lambda prompt: prompt.upper()).engine
    assert answer_questions(engine, [ask("red"), ask("blue")], max_new_tokens=5) == ["RED", "BLUE"]
    request = engine.requests[0]  # pyright: ignore
    assert (request.sampling.temperature, request.sampling.max_new_tokens) == (0.0, 5)
    assert request.stop_token_ids == engine.tokenizer.stop_token_ids


def test_a_prompt_that_does_not_fit_counts_as_unanswered(
    with_rule: Callable[..., Subject], caplog: pytest.LogCaptureFixture
):
    engine = with_rule(lambda prompt: "yes", max_seq_len=20).engine
    with caplog.at_level(logging.WARNING, "portable"):
        answers = answer_questions(engine, [ask("red"), ask("x" * 40), ask("blue")], max_new_tokens=5)
    assert answers == ["yes", "", "yes"]
    assert "1 of 3 prompts are longer than the model's 20 tokens" in caplog.text


def test_a_real_engine_answers(subject: Subject):
    answers = answer_questions(subject.engine, [ask("red"), ask("green"), ask("red")], max_new_tokens=6)
    assert answers[0] == answers[2]
    assert len(answers) == 3
