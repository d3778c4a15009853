import pytest

from portable.core.errors import ConfigError
from portable.synth.teacher.extractive import ExtractiveTeacher
from portable.synth.teacher.openai import OpenAiTeacher
from portable.synth.teacher.protocol import TEACHERS


def test_the_built_in_teachers_are_registered():
    assert TEACHERS.get("extractive") is ExtractiveTeacher
    assert TEACHERS.get("openai") is OpenAiTeacher


def test_an_unknown_teacher_is_told_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'extractive'"):
        TEACHERS.get("extractiv")
