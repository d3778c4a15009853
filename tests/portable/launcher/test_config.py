from __future__ import annotations

import pytest

from portable.config.load import load
from portable.core.errors import ConfigError
from portable.launcher.config import (
    LocalLauncherConfig,
    RayLauncherConfig,
    SlurmLauncherConfig,
    device_request,
)


def test_alone_is_the_default_and_is_not_started_by_anybody():
    launcher = load("pretrain", ["data=x"]).launcher
    assert launcher == LocalLauncherConfig()
    assert (launcher.starts_ranks, launcher.submits, launcher.num_ranks) == (False, False, 1)


@pytest.mark.parametrize(
    ("words", "kind", "ranks", "starts", "submits"),
    [
        (["launcher.processes=3"], LocalLauncherConfig, 3, True, False),
        (["launcher=ray"], RayLauncherConfig, 1, True, False),
        (
            ["launcher=slurm", "launcher.nodes=2", "launcher.tasks_per_node=8"],
            SlurmLauncherConfig,
            16,
            False,
            True,
        ),
        (["launcher=slurm_local", "launcher.tasks_per_node=2"], SlurmLauncherConfig, 2, False, True),
    ],
)
def test_each_kind_says_what_it_does(words, kind, ranks, starts, submits):
    launcher = load("pretrain", ["data=x", *words]).launcher
    assert isinstance(launcher, kind)
    assert (launcher.num_ranks, launcher.starts_ranks, launcher.submits) == (ranks, starts, submits)
    assert launcher.describe().startswith(f"{launcher.name}, {ranks} process")


@pytest.mark.parametrize(
    ("hardware", "asked"),
    [("cpu", None), ("cuda_h100", "gpu:8"), ("rocm_mi300x", "gpu:8"), ("ascend_910b", "npu:8")],
)
def test_slurm_is_asked_for_the_hardwares_devices_by_the_name_they_have_there(hardware, asked):
    job = load("pretrain", ["data=x", f"hardware={hardware}", "launcher=slurm", "launcher.tasks_per_node=8"])
    assert job.launcher.gres == asked == device_request(job.hardware.resource, 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["launcher.processes=0"], "launcher.processes=0; use 1 or more"),
        (["launcher.max_restarts=-1"], "launcher.max_restarts=-1; use 0 or more"),
        (["launcher=slurm", "launcher.nodes=0"], "launcher.nodes=0; use 1 or more"),
        (["launcher=ray", "launcher.cpus_per_process=0"], "launcher.cpus_per_process=0; use 1 or more"),
        (["launcher=slrum"], "launcher=slrum does not exist"),
    ],
)
def test_senseless_settings_are_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        load("pretrain", ["data=x", *words])
