import pytest

from portable.core.errors import DataError
from portable.synth.teacher.prompt import build_messages, read_pairs

GOOD = '{"pairs": [{"question": " Why? ", "answer": "Because."}]}'


@pytest.mark.parametrize(
    "reply", [GOOD, f"```json\n{GOOD}\n```", f"<think>{{a}} or b</think>Sure: {GOOD} Done."]
)
def test_pairs_are_read_whatever_surrounds_them(reply: str):
    assert read_pairs(reply) == [("Why?", "Because.")]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I cannot.", "no_json"),
        ("} {", "no_json"),
        (GOOD.replace(":", "", 1), "broken_json"),
        ('{"pairs": "none"}', "wrong_schema"),
        ('{"questions": []}', "wrong_schema"),
        ('{"pairs": ["why?"]}', "wrong_schema"),
        ('{"pairs": [{"question": "Why?", "answer": 3}]}', "wrong_schema"),
    ],
)
def test_an_unusable_reply_has_a_reason(reply: str, reason: str):
    with pytest.raises(DataError, match=f"^{reason}$"):
        read_pairs(reply)


def test_the_passage_and_the_number_stand_in_the_prompt():
    system, user = build_messages("Ferns {grow}.", 3)
    assert system["role"] == "system"
    assert "JSON" in system["content"]
    assert user["content"].startswith("Write 3 ")
    assert user["content"].endswith("Ferns {grow}.")
