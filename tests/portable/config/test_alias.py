import pytest

from portable.config.alias import PARALLEL_ALIASES, resolve_aliases
from portable.config.load import load
from portable.core.errors import ConfigError
from portable.parallel.config import ParallelConfig


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("parallel.tensor_model_parallel_size=2", "parallel.tensor_parallel_degree=2"),
        ("parallel.pp=1,2", "parallel.pipeline_parallel_degree=1,2"),
        ("+parallel.cp=2", "+parallel.context_parallel_degree=2"),
        ("parallel.cp_comm_type=a2a,p2p", "parallel.context_parallel_method=ulysses,ring"),
        ("parallel.tensor_parallel_degree=2", "parallel.tensor_parallel_degree=2"),
        ("model.tp=2", "model.tp=2"),
        ("parallel=default", "parallel=default"),
        ("-m", "-m"),
    ],
)
def test_other_names_become_ours(given: str, wanted: str) -> None:
    assert resolve_aliases([given]) == [wanted]


def test_every_alias_stands_for_a_setting_that_exists() -> None:
    assert all(hasattr(ParallelConfig(), name) for name in PARALLEL_ALIASES.values())


def test_a_config_is_loaded_by_aliases() -> None:
    job = load("pretrain", ["parallel.tensor_model_parallel_size=2", "parallel.pp=4"])
    assert (job.parallel.tensor_parallel_degree, job.parallel.pipeline_parallel_degree) == (2, 4)


def test_a_name_that_is_nobodys_is_refused() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel"):
        load("pretrain", ["parallel.tensor_parallel=2"])
