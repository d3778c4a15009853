"""Hydra's complaints, in the words that Hydra uses, and what we make of them."""

from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, MissingMandatoryValue

from portable.config.explain import explain, flatten_keys
from portable.config.load import load
from portable.core.errors import ConfigError

OPTIONS = (
    "In 'stage/pretrain': Could not find 'optim/{wanted}'\n\n"
    "Available options in 'optim':\n\tadamw\n\tbase_adamw\n\tmuon\n"
    "Config search path:\n\tprovider=hydra, path=pkg://hydra.conf\n"
)


@dataclass
class Inner:
    size: int = 3


@dataclass
class Outer:
    here: Inner = field(default_factory=Inner)
    absent: Inner | None = None
    later: Inner = MISSING
    number: int = MISSING
    same: Inner = field(default_factory=Inner)
    rows: list[int] = field(default_factory=lambda: [1, 2])


def chain(*texts: str) -> Exception:
    """Return the exception of the first text, raised from that of the second, and so on."""
    cause: Exception | None = None
    for text in reversed(texts):
        error = ValueError(text)
        error.__cause__ = cause
        cause = error
    assert cause is not None
    return cause


def known() -> DictConfig:
    return OmegaConf.create(
        {
            "steps": 10,
            "optim": {"lr": 0.1, "weight_decay": 0.0},
            "model": {"hidden_size": 64},
            "some": {"long": {"way": {"down": {"warmup_steps": 5}}}},
        }
    )


def unknown_key(key: str) -> Exception:
    return chain(
        f"Could not override '{key}'.\nTo append to your config use +{key}=3", f"Key '{key}' not in 'Job'"
    )


def test_a_missing_value_says_what_to_add() -> None:
    said = explain(
        chain("Structured config of type `Job` has missing mandatory value: steps\n    full_key: steps")
    )
    assert isinstance(said, ConfigError)
    assert str(said) == "setting 'steps' has no default; add steps=VALUE"


def test_a_value_of_the_wrong_kind_is_quoted_with_the_reason_of_its_cause() -> None:
    said = explain(
        chain(
            "Error merging override steps=many",
            "Value 'many' of type 'str' could not be converted to Integer\n    full_key: steps",
        )
    )
    assert str(said) == (
        "setting steps=many has a value of the wrong kind: "
        "value 'many' of type 'str' could not be converted to Integer"
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("adam", "optim=adam does not exist. Did you mean 'adamw'"),
        ("zzz", "optim=zzz does not exist. Choices: adamw, base_adamw, muon"),
    ],
)
def test_a_choice_that_does_not_exist_lists_those_that_do(wanted: str, said: str) -> None:
    text = str(explain(chain(OPTIONS.format(wanted=wanted))))
    assert text.startswith(said)
    assert text.endswith("Choices: adamw, base_adamw, muon")


@pytest.mark.parametrize(
    ("key", "neighbour"),
    [
        ("stepz", "Did you mean 'steps'?"),
        ("model.hiden_size", "Did you mean 'model.hidden_size'?"),
        ("lr", "Did you mean 'optim.lr'?"),
        ("learner.lr", "Did you mean 'optim.lr'?"),
        ("warmup_step", "warmup_steps'?"),
    ],
)
def test_an_unknown_setting_is_named_with_its_neighbour(key: str, neighbour: str) -> None:
    text = str(explain(unknown_key(key), known()))
    assert text.startswith(f"there is no setting '{key}'.")
    assert neighbour in text


def test_an_unknown_setting_without_neighbours_or_legal_keys_is_only_named() -> None:
    wanted = "there is no setting 'qqq'. See all settings with --cfg job; a new key needs a leading + ."
    assert str(explain(unknown_key("qqq"), known())) == wanted
    assert str(explain(unknown_key("qqq"))) == wanted


def test_an_unknown_group_is_a_setting_like_any_other() -> None:
    error = chain("Could not override 'modle'. No match in the defaults list.")
    assert "no setting 'modle'. Did you mean 'model'" in str(explain(error, known()))


def test_omegaconfs_own_exceptions_are_understood() -> None:
    config = OmegaConf.structured(Outer)
    with pytest.raises(ConfigAttributeError) as struct:
        OmegaConf.update(config, "heer", 1)
    assert "no setting 'heer'. Did you mean 'here'" in str(explain(struct.value, config))
    with pytest.raises(MissingMandatoryValue) as missing:
        OmegaConf.to_object(config)
    assert "add later" in str(explain(missing.value))


def test_a_reason_that_was_not_named_as_the_cause_is_found() -> None:
    error = ValueError("outside")
    error.__context__ = ValueError("missing mandatory value: model.hidden_size")
    assert "setting 'model.hidden_size' has no default" in str(explain(error))


def test_anything_else_becomes_one_paragraph() -> None:
    said = explain(chain("Error parsing override '=='\n\n  extraneous input '='\nSee the manual"))
    assert str(said) == "Error parsing override '==' extraneous input '=' See the manual"


def test_every_key_of_a_nested_config_is_listed_and_none_is_resolved() -> None:
    config = OmegaConf.create(
        {"a": {"b": 1, "c": "???"}, "d": None, "e": "${nowhere}", "f": [{"g": 2}], "h": {}}
    )
    assert list(flatten_keys(config)) == ["a", "a.b", "a.c", "d", "e", "f", "h"]


def test_parts_that_are_none_missing_or_references_have_no_keys_of_their_own() -> None:
    config = OmegaConf.structured(Outer)
    config.same = "${here}"
    assert list(flatten_keys(config)) == ["here", "here.size", "absent", "later", "number", "same", "rows"]


def test_a_prefix_stands_before_every_key() -> None:
    assert list(flatten_keys(OmegaConf.create({"a": {"b": 1}}), "x.")) == ["x.a", "x.a.b"]


def test_a_setting_inside_a_part_that_is_null_names_the_part() -> None:
    with pytest.raises(ConfigError, match=r"no 'model.moe.num_experts' to set, for 'model.moe' is null"):
        load("pretrain", ["data=x", "model.moe.num_experts=4"])
