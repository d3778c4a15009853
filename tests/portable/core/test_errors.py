"""The exception tree and the suggestions in its messages."""

import pytest

from portable.core import errors


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.PortableError, 1),
        (errors.ShapeError, 1),
        (errors.CapabilityError, 1),
        (errors.CollectiveError, 1),
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.ArtefactError, 2),
        (errors.BackendUnavailable, 2),
        (errors.StorageError, 2),
    ],
)
def test_exit_code_tells_whether_the_user_can_mend_it(error: type[errors.PortableError], exit_code: int):
    assert error.exit_code == exit_code
    assert issubclass(error, errors.UserError) == (exit_code == 2)
    assert issubclass(error, errors.PortableError)


def test_every_error_of_the_module_hangs_in_the_tree():
    own = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, Exception)]
    assert len(own) >= 10
    assert all(issubclass(item, errors.PortableError) for item in own)
    assert all(item.__name__ in (errors.__doc__ or "") for item in own)


def test_did_you_mean_names_the_nearest():
    assert errors.did_you_mean("adamv", ["adamw", "muon"]) == " Did you mean 'adamw'?"


def test_did_you_mean_names_several_up_to_the_limit():
    known = ["train", "trains", "trainx", "trainy", "other"]
    text = errors.did_you_mean("train", known)
    assert text.startswith(" Did you mean 'train' or ")
    assert text.count("'") == 6
    assert errors.did_you_mean("train", known, limit=1) == " Did you mean 'train'?"


def test_did_you_mean_is_silent_when_nothing_is_near():
    assert errors.did_you_mean("zzz", ["adamw", "muon"]) == ""
    assert errors.did_you_mean("adamw", []) == ""
