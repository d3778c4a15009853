import pytest

from portable.core.errors import ConfigError
from portable.model.export_config import ExportConfig, ExportDtype


def test_defaults_keep_the_format():
    assert ExportConfig(model_path="m").dtype is ExportDtype.keep


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_check_sequences": 0}, "num_check_sequences=0; use at least 1"),
        ({"max_logit_difference": 0.0}, "max_logit_difference=0.0; use a positive number"),
        ({"max_logit_difference": float("nan")}, "max_logit_difference=nan"),
    ],
)
def test_settings_that_would_check_nothing_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        ExportConfig(model_path="m", **changes)
