import pytest

from portable.collective.launch import LaunchPlace, join_group, read_place
from portable.collective.local import LocalGroup
from portable.core.errors import CollectiveError, ConfigError
from tests.processes import free_port

FULL = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_without_variables_the_process_is_alone():
    assert read_place({"PATH": "/bin"}) == LaunchPlace(rank=0, world_size=1, local_rank=0)


def test_torchruns_variables_are_read():
    assert read_place(FULL) == LaunchPlace(rank=3, world_size=8, local_rank=1)


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_incomplete_environment_names_what_is_missing(missing: str):
    variables = {name: value for name, value in FULL.items() if name != missing}
    with pytest.raises(ConfigError, match=f"but not {missing}; start with `torchrun"):
        read_place(variables)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "three", "RANK=three, which is not a whole number"),
        ("WORLD_SIZE", "-2", "WORLD_SIZE=-2, which is not a whole number"),
        ("RANK", "8", "ranks go from 0 to WORLD_SIZE - 1"),
        ("LOCAL_RANK", "5", "no local rank is above its rank"),
    ],
)
def test_senseless_numbers_are_refused(name: str, value: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read_place({**FULL, name: value})


def test_a_world_of_one_needs_no_communicator(monkeypatch: pytest.MonkeyPatch):
    for name, value in {**FULL, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert isinstance(join_group("gloo", timeout_s=1.0), LocalGroup)


def test_peers_that_never_come_are_reported_with_the_address(monkeypatch: pytest.MonkeyPatch):
    port = str(free_port())
    for name, value in {**FULL, "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        CollectiveError, match=f"rank 1 of 2 met no peers at MASTER_ADDR:MASTER_PORT=127.0.0.1:{port}"
    ):
        join_group("gloo", timeout_s=1.0)
