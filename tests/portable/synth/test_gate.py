from dataclasses import replace

import pytest

from portable.core.errors import PortableError
from portable.synth.config import SynthConfig
from portable.synth.gate import Gate, Ledger
from portable.synth.teacher.protocol import Outcome, QaPair

PAIR = QaPair("What is a fern?", "A plant.", "doc", 0, 8, "definition")


@pytest.fixture
def gate() -> Gate:
    return Gate(SynthConfig(max_question_chars=20, min_answer_chars=3, max_answer_chars=10))


def test_a_good_pair_passes_once(gate: Gate):
    assert gate.refusal(PAIR) == ""
    assert gate.refusal(replace(PAIR, answer="A weed.")) == "duplicate_question"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "  "}, "empty"),
        ({"answer": ""}, "empty"),
        ({"question": "x" * 21}, "question_too_long"),
        ({"answer": "xy"}, "answer_too_short"),
        ({"answer": "x" * 11}, "answer_too_long"),
        ({"question": "Ferns  grow", "answer": "ferns grow"}, "answer_repeats_question"),
    ],
)
def test_every_refusal_has_its_reason(gate: Gate, changes: dict[str, str], reason: str):
    assert gate.refusal(replace(PAIR, **changes)) == reason


def test_bounds_are_included(gate: Gate):
    assert gate.refusal(replace(PAIR, question="x" * 20, answer="yyy")) == ""
    assert gate.refusal(replace(PAIR, question="z" * 20, answer="y" * 10)) == ""


def test_the_ledger_adds_up():
    ledger = Ledger(requested=4)
    ledger.note(Outcome("doc", PAIR))
    ledger.note(Outcome("doc", PAIR), "duplicate_question")
    ledger.note(Outcome("doc", reason="no_rule"))
    ledger.note(Outcome("doc", reason="timeout", failed=True))
    ledger.check()
    counts = ledger.to_json()
    assert (counts["accepted"], counts["rejected"], counts["failed"]) == (1, 2, 1)
    assert counts["rejected_by_reason"] == {"duplicate_question": 1, "no_rule": 1}


def test_a_lost_request_is_an_error():
    ledger = Ledger(requested=2)
    ledger.note(Outcome("doc", PAIR))
    with pytest.raises(PortableError, match="2 questions were requested, 1 accounted for"):
        ledger.check()
