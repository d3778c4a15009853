"""A DeepSpeed JSON is taken over, checked, or refused as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig
from portable.parallel.strategies.deepspeed.config import (
    DeepspeedConfig,
    OffloadOptimizerConfig,
    OffloadParamConfig,
)
from portable.parallel.strategies.deepspeed.document import TrainingFacts, engine_document, to_json
from portable.parallel.strategies.deepspeed.importer import check_training, import_settings

WIDE = PrecisionConfig()
BF16 = PrecisionConfig(compute_dtype=Dtype.bf16)
FACTS = TrainingFacts(
    micro_batch_size=2,
    grad_accum_steps=3,
    num_readers=4,
    max_grad_norm=1.0,
    optimizer="adamw",
    lr=1e-3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
)


def imported(tmp_path: Path, document: Any) -> DeepspeedConfig:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(document))
    return DeepspeedConfig(config_file=str(path))


@pytest.mark.parametrize("precision", [WIDE, BF16])
@pytest.mark.parametrize(
    "config",
    [
        *(DeepspeedConfig(stage=stage) for stage in (0, 1, 2, 3)),
        DeepspeedConfig(stage=2, overlap_comm=True, reduce_bucket_size=1000),
        DeepspeedConfig(
            stage=3,
            offload_optimizer=OffloadOptimizerConfig(device="cpu", pin_memory=False),
            offload_param=OffloadParamConfig(device="nvme", nvme_path="/disk"),
        ),
    ],
)
def test_what_a_run_writes_is_what_it_would_read(
    tmp_path: Path, config: DeepspeedConfig, precision: PrecisionConfig
):
    given = imported(tmp_path, to_json(config, precision, FACTS))
    assert replace(import_settings(given, precision), config_file="") == config
    check_training(given, FACTS)


def test_clipping_is_always_written():
    assert engine_document(DeepspeedConfig(), WIDE)["gradient_clipping"] == 0.0


def test_auto_is_ours(tmp_path: Path):
    document = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "scheduler": "auto",
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "sub_group_size": 1e9},
    }
    given = imported(tmp_path, document)
    settings = import_settings(given, BF16)
    assert (settings.stage, settings.reduce_bucket_size, settings.sub_group_size) == (3, 500_000_000, 10**9)
    check_training(given, FACTS)


def test_all_that_is_not_honoured_is_in_one_error(tmp_path: Path):
    document = {
        "fp16": {"enabled": True, "loss_scale": 0},
        "bf16": {"enabled": True},
        "scheduler": {"type": "WarmupLR"},
        "zero_optimization": {"stage": 2, "zenflow": {}, "offload_optimizer": {"device": "cpu", "speed": 1}},
        "activation_checkpointing": {"partition_activations": True},
        "curriculum_learning": {},
    }
    with pytest.raises(ConfigError) as caught:
        import_settings(imported(tmp_path, document), WIDE)
    text = str(caught.value)
    for part in (
        "7 things",
        "fp16 is not taken over",
        "bf16.enabled=True, but precision.compute_dtype=fp32",
        "scheduler is not taken over; set schedule=",
        "zero_optimization.zenflow has no counterpart",
        "zero_optimization.offload_optimizer.speed",
        "activation_checkpointing",
        "curriculum_learning",
    ):
        assert part in text


def test_values_of_another_kind_are_listed(tmp_path: Path):
    document = {
        "zero_optimization": {
            "stage": 2.5,
            "reduce_bucket_size": "5e8",
            "overlap_comm": "yes",
            "reduce_scatter": 1,
            "sub_group_size": float("inf"),
            "prefetch_bucket_size": 10,
            "stage3_prefetch_bucket_size": 20,
            "offload_optimizer": {"device": "nvme"},
            "offload_param": "cpu",
        },
        "aio": {"thread_count": 1, "intra_op_parallelism": 2},
        "data_types": "fp32",
        "gradient_compression": None,
    }
    with pytest.raises(ConfigError) as caught:
        import_settings(imported(tmp_path, document), WIDE)
    text = str(caught.value)
    for part in (
        "11 things",
        "zero_optimization.stage=2.5 is no int",
        "zero_optimization.reduce_bucket_size='5e8' is no int",
        "zero_optimization.overlap_comm='yes' is no bool",
        "zero_optimization.reduce_scatter=1 is no bool",
        "zero_optimization.sub_group_size=inf is no int",
        "zero_optimization.stage3_prefetch_bucket_size says again",
        "nvme_path=FOLDER",
        "zero_optimization.offload_param is no object",
        "aio.intra_op_parallelism says again",
        "data_types is no object",
        "gradient_compression has no counterpart",
    ):
        assert part in text


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path):
    path = tmp_path / "ds.json"
    path.write_text('{"zero_optimization": {"stage": 1, "stage": 3}}')
    with pytest.raises(ConfigError, match="gives the key stage twice"):
        import_settings(DeepspeedConfig(config_file=str(path)), WIDE)


def test_a_batch_that_differs_from_step_to_step_is_left_open(tmp_path: Path):
    facts = replace(FACTS, grad_accum_steps=None)
    written = to_json(DeepspeedConfig(), WIDE, facts)
    assert not {"train_batch_size", "gradient_accumulation_steps"} & written.keys()
    check_training(imported(tmp_path, written), facts)
    with pytest.raises(ConfigError, match="train_batch_size=24, but global_batch_size=other in every step"):
        check_training(imported(tmp_path, written | {"train_batch_size": 24}), facts)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"train_batch_size": 8, "gradient_clipping": 1.0}, "train_batch_size=8, but global_batch_size=24"),
        ({"gradient_clipping": 0.5}, "gradient_clipping=0.5, but max_grad_norm=1.0"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps=1, but"),
        ({"optimizer": {"type": "Lamb", "params": {}}}, "optimizer.type=Lamb, but optim=adamw"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "optimizer.type=Adam"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}, "params.lr=0.1, but optim.lr=0.001"),
        ({"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}}, "params.amsgrad has no counterpart"),
    ],
)
def test_a_file_that_says_something_else_than_the_run_does_is_refused(
    tmp_path: Path, document: dict[str, Any], text: str
):
    with pytest.raises(ConfigError, match="this run would not do") as caught:
        check_training(imported(tmp_path, document), FACTS)
    assert text in str(caught.value)


def test_a_file_without_clipping_clips_at_one(tmp_path: Path):
    given = imported(tmp_path, {})
    check_training(given, FACTS)
    with pytest.raises(ConfigError, match=r"takes 1\.0; max_grad_norm=0\.0"):
        check_training(given, replace(FACTS, max_grad_norm=0.0))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stage": 4}, "stage=4; use 0, 1, 2 or 3"),
        ({"stage": 2, "offload_param": OffloadParamConfig(device="cpu")}, "use strategy.stage=3"),
        ({"stage": 0, "offload_optimizer": OffloadOptimizerConfig(device="cpu")}, "use strategy.stage=1"),
        ({"zero_hpz_partition_size": 2}, "use strategy.stage=3"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], text: str):
    with pytest.raises(ConfigError, match=text):
        DeepspeedConfig(**changes)


def test_a_disk_needs_a_folder():
    with pytest.raises(ConfigError, match="nvme_path=FOLDER"):
        OffloadParamConfig(device="nvme")
