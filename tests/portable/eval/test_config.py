import pytest

from portable.core.errors import ConfigError
from portable.eval.config import EvalConfig


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"tasks": []}, r"eval.tasks=\[\]"),
        ({"num_questions": 0}, "eval.num_questions=0"),
        ({"num_documents": -1}, "eval.num_documents=-1"),
        ({"num_resamples": 0}, "eval.num_resamples=0"),
    ],
)
def test_a_bad_setting_is_named(settings: dict, field: str):
    with pytest.raises(ConfigError, match=field):
        EvalConfig(**{"models": {"base": "x"}, **settings})


def test_values_that_are_still_missing_are_let_through():
    assert EvalConfig(models={"base": "x"}).corpus == ""
