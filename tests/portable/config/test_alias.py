import pytest

from portable.config.alias import ALIASES, WORDS, alias_names, resolve_aliases
from portable.config.explain import flatten_keys
from portable.config.load import choices, compose, load
from portable.core.errors import ConfigError


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
        ("tensor_model_parallel_size=2", "parallel.tensor_parallel_degree=2"),
        ("parallelism.tensor_parallel_degree=2", "parallel.tensor_parallel_degree=2"),
        ("parallelism.fsdp_reshard_after_forward=never", "strategy.reshard_after_forward=false"),
        ("recompute_granularity=full", "parallel.recompute.mode=full"),
        ("parallel.use_distributed_optimizer=True", "strategy=zero1"),
        ("zero_optimization.stage=2", "strategy=zero2"),
        ("fp16.initial_scale_power=16", "precision.loss_scale.initial=65536"),
        ("optimizer.lr=0.1", "optim.lr=0.1"),
        ("optim.lr=0.1", "optim.lr=0.1"),
        ("-m", "-m"),
    ],
)
def test_other_names_become_ours(given: str, wanted: str) -> None:
    assert resolve_aliases([given]) == [wanted]


def test_every_alias_stands_for_a_setting_that_exists_and_is_none_itself() -> None:
    keys = set(flatten_keys(compose("pretrain", ["strategy=fsdp"])))
    targets = {*ALIASES.values(), *(target for target, _ in WORDS.values())}
    assert targets <= keys
    assert not keys & set(alias_names())


@pytest.mark.parametrize("group", ["strategy", "precision", "optim"])
def test_every_choice_that_a_word_stands_for_exists(group: str) -> None:
    words = [words for target, words in WORDS.values() if target == group]
    assert {word for found in words for word in found.values() if word} <= set(choices(group))


def test_what_is_done_anyway_is_dropped() -> None:
    assert resolve_aliases(["bf16.enabled=false", "steps=3"]) == ["steps=3"]


def test_megatrons_method_says_what_its_layers_count() -> None:
    words = ["recompute_granularity=full", "recompute_method=block", "parallel.recompute_num_layers=2"]
    assert resolve_aliases(words) == ["parallel.recompute.mode=full", "parallel.recompute.num_layers=2"]
    assert resolve_aliases(["recompute_method=uniform", "recompute_num_layers=1"]) == []
    for words in (["recompute_num_layers=2"], ["recompute_method=uniform", "recompute_num_layers=2"]):
        with pytest.raises(ConfigError, match="recompute_method"):
            resolve_aliases(words)


def test_a_word_without_a_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'selective'"):
        resolve_aliases(["parallel.recompute_granularity=selectiv"])


def test_a_mistyped_alias_is_mended() -> None:
    with pytest.raises(ConfigError, match=r"'parallel\.recompute_granularity'"):
        load("pretrain", ["parallel.recompute_granularty=full"])
    with pytest.raises(ConfigError, match="'tensor_model_parallel_size'"):
        load("pretrain", ["tensor_model_paralel_size=2"])


def test_a_config_is_loaded_by_aliases() -> None:
    job = load("pretrain", ["parallel.tensor_model_parallel_size=2", "parallel.pp=4"])
    assert (job.parallel.tensor_parallel_degree, job.parallel.pipeline_parallel_degree) == (2, 4)
    job = load("pretrain", ["zero_optimization.stage=3", "bf16=true", "lr_decay_style=WSD", "clip_grad=0.5"])
    assert (job.strategy.name, job.precision.name) == ("zero3", "bf16")
    assert (job.schedule.decay.name, job.max_grad_norm) == ("wsd", 0.5)


def test_a_name_that_is_nobodys_is_refused() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel"):
        load("pretrain", ["parallel.tensor_parallel=2"])
