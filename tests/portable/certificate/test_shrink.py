"""A model that is small and divides as the user's own."""

import pytest

from portable.certificate.shrink import make_trial
from portable.config.load import load
from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig


def _trial(words: str, parallel: ParallelConfig, *, full: bool = False):
    job = load("pretrain", words.split())
    return job.model, make_trial(job.model, parallel, seq_len=job.seq_len, full=full)


@pytest.mark.parametrize(
    ("words", "parallel"),
    [
        ("model=llama3_70b", ParallelConfig(tensor_parallel_degree=8)),
        ("model=qwen3_8b", ParallelConfig(pipeline_parallel_degree=5)),
        ("model=mixtral_8x7b", ParallelConfig(expert_parallel_degree=4)),
        ("model=deepseek_v3", ParallelConfig(tensor_parallel_degree=2, expert_parallel_degree=8)),
        ("model=qwen3_30b_a3b", ParallelConfig(context_parallel_degree=4)),
    ],
)
def test_large_models_shrink_and_keep_what_decides(words: str, parallel: ParallelConfig) -> None:
    model, trial = _trial(words, parallel)
    small, tp = trial.model, parallel.tensor_parallel_degree
    assert small.hidden_size <= 64
    assert small.vocab_size <= 128
    assert small.num_layers <= 2 * parallel.pipeline_parallel_degree
    assert small.vocab_size % tp == model.vocab_size % tp
    assert small.num_layers % parallel.pipeline_parallel_degree == (
        model.num_layers % parallel.pipeline_parallel_degree
    )
    assert small.tie_embeddings == model.tie_embeddings
    assert (small.num_heads > small.num_kv_heads) == (model.num_heads > model.num_kv_heads)
    for part in ("moe", "mla", "mtp"):
        assert (getattr(small, part) is None) == (getattr(model, part) is None)


def test_an_odd_vocabulary_stays_odd() -> None:
    _, trial = _trial("model.vocab_size=1023", ParallelConfig(tensor_parallel_degree=2))
    assert trial.model.vocab_size % 2 == 1


def test_the_users_own_sizes_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_degree=3 does not divide"):
        _trial("model.num_heads=8", ParallelConfig(tensor_parallel_degree=3))


def test_named_stages_stay_uneven() -> None:
    parallel = ParallelConfig(pipeline_parallel_degree=2, pipeline_parallel_layers_per_stage=[5, 1])
    _, trial = _trial("model.num_layers=6", parallel)
    assert trial.parallel.pipeline_parallel_layers_per_stage == [2, 1]
    assert trial.model.num_layers == 3


def test_full_keeps_the_model() -> None:
    model, trial = _trial("model=quickstart", ParallelConfig(), full=True)
    assert trial.model == model
