import pytest

from portable.config.load import load
from portable.config.store import VERBS
from portable.core.errors import ConfigError
from portable.job.inputs import require_inputs

NEEDED = [
    ("pretrain", "data"),
    ("synth", "data"),
    ("sft", "model_path"),
    ("rl", "model_path"),
    ("chat", "model_path"),
]


@pytest.mark.parametrize(("verb", "name"), NEEDED)
def test_an_input_left_empty_is_named_with_what_to_add(verb: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"portable {verb} needs '{name}'.*add {name}=PATH"):
        require_inputs(verb, load(verb, ["hardware=cpu"]))


def test_models_to_score_are_added_by_name() -> None:
    with pytest.raises(ConfigError, match=r"add \+models\.NAME=PATH"):
        require_inputs("eval", load("eval", ["hardware=cpu"]))


def test_given_inputs_pass() -> None:
    require_inputs("sft", load("sft", ["hardware=cpu", "model_path=m", "data=d"]))
    require_inputs("data", load("data", ["hardware=cpu"]))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes_without_its_inputs(verb: str) -> None:
    assert load(verb, ["hardware=cpu"]).hardware.name == "cpu"
