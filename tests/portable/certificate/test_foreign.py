"""A model of transformers that is small and divides as the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from portable.certificate.foreign import asked_model
from portable.certificate.shrink import Trial, make_trial
from portable.certificate.train import build
from portable.core.errors import ArtefactError
from portable.model.config import ModelConfig
from portable.parallel.config import ParallelConfig
from portable.testing.runtime import make_runtime
from portable.train.pretrain_config import ModelSource
from tests.portable.certificate.matrix import FOREIGN, write_configs


def _trial(folder: Path, kind: str, *, full: bool = False) -> tuple[ModelConfig, Trial]:
    write_configs(folder)
    asked = asked_model(ModelConfig(), str(folder / kind), ModelSource.transformers)
    parallel = ParallelConfig(tensor_parallel_degree=2)
    return asked.model, make_trial(asked.model, parallel, seq_len=256, full=full, foreign=asked.foreign)


@pytest.mark.parametrize("kind", FOREIGN)
def test_sizes_shrink_and_what_decides_stays(tmp_path: Path, kind: str) -> None:
    asked, trial = _trial(tmp_path, kind)
    assert asked.vocab_size == 32_000
    assert trial.foreign is not None
    assert trial.foreign["model_type"] == kind
    model, _ = build(trial, make_runtime().kernels)
    assert sum(parameter.numel() for parameter in model.parameters()) < 60_000
    assert model.tied == (kind == "qwen3")
    assert model.settings.num_heads > model.settings.num_kv_heads > 1
    assert (trial.model.moe is not None) == (kind == "mixtral")


def test_full_keeps_the_model(tmp_path: Path) -> None:
    _, trial = _trial(tmp_path, "llama", full=True)
    assert trial.foreign is not None
    assert trial.foreign["hidden_size"] == 1024


def test_our_code_computes_a_folder_that_it_has_the_formulas_of(tmp_path: Path) -> None:
    write_configs(tmp_path)
    asked = asked_model(ModelConfig(), str(tmp_path / "qwen3"), ModelSource.auto)
    assert asked.foreign is None
    assert (asked.model.vocab_size, asked.model.tie_embeddings) == (32_000, True)


def test_without_a_folder_the_settings_count() -> None:
    assert asked_model(ModelConfig(), "", ModelSource.auto).model == ModelConfig()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=str(tmp_path)):
        asked_model(ModelConfig(), str(tmp_path), ModelSource.transformers)
