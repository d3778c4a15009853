"""The RL stage on a policy small enough to learn in seconds: from the reward, and from nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from portable.core.errors import ConfigError
from portable.core.workspace import Workspace
from portable.engine.config import HfEngineConfig, NativeEngineConfig
from portable.rl.config import GrpoConfig, RlConfig
from portable.rl.run import run_rl
from portable.train.config import CheckpointConfig, Decay, MuonConfig, ScheduleConfig

ENGINE = NativeEngineConfig(max_batch_size=512)


def config_of(policy_dir: Path, **settings) -> RlConfig:
    defaults = {
        "steps": 4,
        "prompts_per_rollout": 100,
        "num_samples": 8,
        "updates_per_rollout": 2,
        "optim": MuonConfig(lr=0.01, momentum=0.7, adamw_lr=2e-3),
        "schedule": ScheduleConfig(name="constant", decay=Decay.constant, warmup_steps=3),
        "checkpoint": CheckpointConfig(every_steps=3),
    }
    return RlConfig(model_path=str(policy_dir), **{**defaults, **settings})


@pytest.fixture(scope="module")
def learnt(policy_dir, runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    return run_rl(config_of(policy_dir, steps=LEARNING_STEPS, seeds=[0]), runtime, ENGINE, Workspace(folder))


LEARNING_STEPS = 280


def test_learns_sums_from_the_reward(learnt) -> None:
    assert learnt.kind == "model"
    (start,), (end,) = learnt.summary["reward_start"], learnt.summary["reward_end"]
    assert start <= 0.1
    assert end >= 0.5


def test_the_curve_shows_every_rollout(learnt) -> None:
    (curve,) = json.loads((learnt.path / "curves.json").read_text())["seeds"]
    assert len(curve["reward"]) == LEARNING_STEPS // 2
    assert len(curve["kl"]) == LEARNING_STEPS
    assert curve["reward"][0] <= 0.1
    assert all(value >= 0 for value in curve["kl"])


def test_learns_nothing_when_rewards_are_shuffled(policy_dir, runtime, tmp_path) -> None:
    control = config_of(policy_dir, steps=LEARNING_STEPS, seeds=[0], shuffle_rewards=True)
    summary = run_rl(control, runtime, ENGINE, Workspace(tmp_path)).summary
    assert summary["reward_end"][0] <= 0.1


def test_a_heavy_penalty_keeps_the_policy_where_it_was(policy_dir, runtime, tmp_path) -> None:
    anchored = config_of(policy_dir, steps=40, seeds=[0], grpo=GrpoConfig(kl_coef=1000.0))
    free = config_of(policy_dir, steps=40, seeds=[0])
    kl = []
    for name, config in (("anchored", anchored), ("free", free)):
        run_rl(config, runtime, ENGINE, Workspace(tmp_path / name))
        (curve,) = json.loads((tmp_path / name / "curves.json").read_text())["seeds"]
        kl.append(sum(curve["kl"][-10:]))
    assert kl[0] < kl[1]


def test_every_seed_is_shown_and_the_first_is_the_result(policy_dir, runtime, tmp_path) -> None:
    artefact = run_rl(config_of(policy_dir, seeds=[3, 1]), runtime, ENGINE, Workspace(tmp_path))
    curves = json.loads((tmp_path / "curves.json").read_text())["seeds"]
    assert [curve["seed"] for curve in curves] == [3, 1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in (".", "seed-3", "seed-1")]
    assert weights[0] == weights[1] != weights[2]
    assert artefact.summary["seeds"] == [3, 1]


def test_continues_between_and_inside_seeds(policy_dir, runtime, tmp_path) -> None:
    whole = run_rl(config_of(policy_dir, seeds=[0, 1]), runtime, ENGINE, Workspace(tmp_path / "whole"))
    folder = tmp_path / "cut"
    run_rl(config_of(policy_dir, seeds=[0]), runtime, ENGINE, Workspace(folder))
    cut = config_of(policy_dir, seeds=[0, 1], checkpoint=CheckpointConfig(every_steps=1))

    class Stop(Exception):  # noqa: N818 - stands for a kill
        pass

    from portable.rl import run as module

    original = module.Trainer.train_step

    def dies_at_the_last_step(self, batches):
        if self.step == 3:
            raise Stop
        return original(self, batches)

    module.Trainer.train_step = dies_at_the_last_step
    try:
        with pytest.raises(Stop):
            run_rl(cut, runtime, ENGINE, Workspace(folder))
    finally:
        module.Trainer.train_step = original
    assert run_rl(cut, runtime, ENGINE, Workspace(folder)).digest == whole.digest
    assert json.loads((folder / "curves.json").read_text()) == json.loads(
        (tmp_path / "whole" / "curves.json").read_text()
    )


def test_an_engine_that_cannot_share_weights_is_refused(policy_dir, runtime, tmp_path) -> None:
    with pytest.raises(ConfigError, match="engine=hf"):
        run_rl(config_of(policy_dir), runtime, HfEngineConfig(), Workspace(tmp_path))


def test_a_strategy_that_keeps_parts_of_weights_is_refused(policy_dir, runtime, tmp_path) -> None:
    sharded = replace(runtime, strategy="fsdp", new_strategy=lambda: SimpleNamespace(shards_parameters=True))
    with pytest.raises(
        ConfigError, match=r"strategy=fsdp as asked for keeps a part .* use strategy=ddp, zero1"
    ):
        run_rl(config_of(policy_dir), sharded, ENGINE, Workspace(tmp_path))
