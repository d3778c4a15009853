"""Composition of the real files: what every verb and every hardware choice resolves to."""

import pytest

from portable.config.load import compose, load
from portable.config.search_path import conf_dir
from portable.core.errors import ConfigError
from portable.job.schema import MachineConfig

HARDWARE = sorted(file.stem for file in (conf_dir() / "hardware").glob("*.yaml"))
INPUTS = {
    "data": [],
    "pretrain": ["data=d", "steps=3"],
    "synth": ["data=d"],
    "sft": ["model_path=m", "data=d"],
    "rl": ["model_path=m", "steps=3"],
    "eval": ["+models.base=m", "corpus=c", "conversations=v"],
    "export": ["model_path=m"],
    "serve": ["model_path=m"],
    "chat": ["model_path=m"],
    "run": [],
}


def test_the_hardware_that_the_project_promises_is_there() -> None:
    assert {
        "cpu",
        "cuda_a100",
        "cuda_h100",
        "cuda_h200",
        "rocm_mi250x",
        "rocm_mi300x",
        "ascend_910b",
        "ascend_910c",
    } <= set(HARDWARE)


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("verb", INPUTS)
def test_every_verb_composes_for_every_hardware(verb: str, hardware: str) -> None:
    job = load(verb, [f"hardware={hardware}", *INPUTS[verb]])
    assert isinstance(job, MachineConfig)
    assert job.hardware.name == hardware


def test_hardware_chooses_the_rest() -> None:
    cpu, npu = load("sft", INPUTS["sft"]), load("sft", ["hardware=ascend_910b", *INPUTS["sft"]])
    assert (cpu.strategy.name, cpu.engine.name, cpu.precision.name) == ("single", "native", "fp32")
    assert (npu.strategy.name, npu.engine.name, npu.precision.name) == ("fsdp", "vllm", "bf16")
    assert npu.communicator.name == "hccl"
    assert npu.kernel.rows == {"attention": "npu_fusion"}


def test_a_users_choice_wins_over_the_hardwares() -> None:
    job = load("sft", ["hardware=cuda_h100", "strategy=ddp", "engine=native", *INPUTS["sft"]])
    assert (job.strategy.name, job.engine.name, job.precision.name) == ("ddp", "native", "bf16")


def test_disputed_figures_give_no_peak() -> None:
    assert load("chat", ["hardware=ascend_910b", "model_path=m"]).hardware.peak_flops("bf16") is None
    assert load("chat", ["hardware=cuda_h100", "model_path=m"]).hardware.peak_flops("bf16") == 989.5e12


def test_a_recipe_takes_overrides_of_any_stage() -> None:
    job = load(
        "run",
        ["recipe=quickstart", "pretrain.steps=3", "optim@sft.optim=muon", "data.tokenizer.vocab_size=300"],
    )
    assert job.pretrain.steps == 3
    assert job.sft.optim.name == "muon"
    assert job.data.tokenizer.vocab_size == 300


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stepz=3"], "Did you mean 'steps'"),
        (["optimm.lr=1"], "Did you mean 'optim"),
        (["model.hiden_size=3"], "Did you mean 'model.hidden_size'"),
        (["hardware=cuda_h10"], "Did you mean 'cuda_h100'"),
        (["optim=adam"], "Did you mean 'adamw'"),
        (["steps=many"], "steps"),
        (["strategi=ddp"], "Did you mean 'strategy'"),
    ],
)
def test_a_wrong_word_is_named_with_its_neighbour(overrides, said) -> None:
    with pytest.raises(ConfigError) as error:
        load("pretrain", ["data=d", "steps=3", *overrides])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_users_folder_adds_choices(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [base_model, _self_]\nhidden_size: 96\n")
    job = load("pretrain", ["data=d", "steps=3", "model=mine"], config_dir=tmp_path)
    assert job.model.hidden_size == 96


def test_values_are_checked_when_the_dataclass_is_built() -> None:
    with pytest.raises(ConfigError, match="num_kv_heads=4 does not divide num_heads"):
        load("pretrain", ["data=d", "steps=3", "model.num_kv_heads=4"])


def test_the_composed_config_prints_every_default() -> None:
    assert "weight_decay" in compose("pretrain", ["data=d"])["optim"]
