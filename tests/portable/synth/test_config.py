import pytest

from portable.core.errors import ConfigError
from portable.synth.config import SynthConfig
from portable.synth.teacher.config import ExtractiveTeacherConfig, OpenAiTeacherConfig


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_train": 0}, "synth.max_train=0"),
        ({"max_heldout": -1}, "synth.max_heldout=-1"),
        ({"min_answer_chars": 20, "max_answer_chars": 10}, "synth.max_answer_chars=10"),
        ({"duplicate_threshold": 0.0}, "synth.duplicate_threshold=0"),
    ],
)
def test_a_bad_setting_is_named(settings: dict, field: str):
    with pytest.raises(ConfigError, match=field):
        SynthConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"concurrency": 0}, "teacher.concurrency=0"),
        ({"retries": -1}, "teacher.retries=-1"),
        ({"min_grounding": 1.5}, "teacher.min_grounding=1.5"),
        ({"questions_per_document": 0}, "teacher.questions_per_document=0"),
    ],
)
def test_a_bad_teacher_setting_is_named(settings: dict, field: str):
    with pytest.raises(ConfigError, match=field):
        OpenAiTeacherConfig(**settings)


def test_values_that_are_still_missing_are_let_through():
    assert OpenAiTeacherConfig().base_url == "???"
    assert ExtractiveTeacherConfig().name == "extractive"
