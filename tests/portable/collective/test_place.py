"""Launchers' environments: read as they are, refused where they are incomplete or senseless."""

from __future__ import annotations

import socket

import pytest

from portable.collective.place import LaunchPlace, first_host, read_place
from portable.core.errors import ConfigError

FULL = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[007-008]",
    "SLURM_JOB_ID": "1234567",
}


def test_without_variables_the_process_is_alone():
    assert read_place({"PATH": "/bin"}) == LaunchPlace(rank=0, world_size=1, local_rank=0)


def test_a_batch_script_outside_a_step_is_alone():
    assert read_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}) == LaunchPlace()


def test_torchruns_variables_are_read():
    place = read_place({**FULL, "GROUP_RANK": "2"})
    assert place == LaunchPlace(3, 8, 1, node="2", address="127.0.0.1", port=29500)
    assert read_place(FULL).node == socket.gethostname()


def test_slurms_variables_are_read():
    assert read_place(SLURM) == LaunchPlace(
        9, 16, 1, node="1", address="gpu007", port=20000 + 1234567 % 20000
    )
    explicit = read_place({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (explicit.address, explicit.port) == ("10.0.0.1", 4000)


def test_torchrun_inside_a_slurm_step_wins():
    assert read_place({**SLURM, **FULL}).rank == 3


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[007-008,012]", "gpu007"),
        ("rack2-gpu[3]", "rack2-gpu3"),
        ("a[1-2]-ib,b3", "a1-ib"),
        ("login.example.org", "login.example.org"),
    ],
)
def test_the_first_host_of_slurms_list(listed: str, host: str):
    assert first_host(listed) == host


def test_a_list_of_another_form_names_the_variable():
    with pytest.raises(ConfigError, match=r"SLURM_NODELIST=\[1-2\] cannot be read; set MASTER_ADDR"):
        first_host("[1-2]")


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_an_incomplete_environment_names_what_is_missing(missing: str):
    variables = {name: value for name, value in FULL.items() if name != missing}
    with pytest.raises(ConfigError, match=f"but not {missing}; start with `torchrun"):
        read_place(variables)


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODELIST", "SLURM_JOB_ID"])
def test_an_incomplete_slurm_environment_names_what_is_missing(missing: str):
    variables = {name: value for name, value in SLURM.items() if name != missing}
    with pytest.raises(ConfigError, match=f"but not {missing}; start with"):
        read_place(variables)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "three", "RANK=three, which is not a whole number"),
        ("WORLD_SIZE", "-2", "WORLD_SIZE=-2, which is not a whole number"),
        ("RANK", "8", "ranks go from 0 to WORLD_SIZE - 1"),
        ("LOCAL_RANK", "5", "no local rank is above its rank"),
        ("MASTER_PORT", "99999", "MASTER_PORT=99999; use a port"),
    ],
)
def test_senseless_numbers_are_refused(name: str, value: str, message: str):
    with pytest.raises(ConfigError, match=message):
        read_place({**FULL, name: value})
