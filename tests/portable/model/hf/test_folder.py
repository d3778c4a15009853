"""Weights go back into the files that they came from, and what cannot be divided is refused."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from portable.core.errors import ArtefactError, CapabilityError, ConfigError
from portable.model.hf.folder import empty_hf, load_hf, save_hf_stream
from portable.model.hf.settings import HfSettings
from portable.model.weight_stream import Fact
from portable.parallel.config import ParallelConfig
from portable.parallel.hf_plan import plan_of_hf
from tests.portable.model.hf.folders import make_folder
from tests.portable.model.hf.test_adapter import KERNELS

TP: dict[str, Any] = {"tensor_parallel_degree": 2}


class NoTokenizer(SimpleNamespace):
    vocab_size = 37

    def save(self, path: Path) -> None: ...


@pytest.mark.parametrize("kind", ["llama", "mixtral", "qwen3_moe", "qwen3", "gpt_neox", "gpt2"])
def test_changed_weights_come_back_in_transformers(kind: str, tmp_path: Path) -> None:
    source, target = make_folder(kind, tmp_path / "in"), tmp_path / "out"
    model = load_hf(source, KERNELS).eval()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.mul_(1.0 + 0.01 * (index % 7))
    state = dict(model.named_parameters())
    facts = {name: Fact(tuple(value.shape), value.dtype) for name, value in state.items()}
    _, weights = empty_hf(source, KERNELS)
    save_hf_stream(facts, state.items(), weights.names, NoTokenizer(), target)
    theirs, report = AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.randint(37, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.logits(model(ids, torch.arange(12).expand(2, -1)))
        torch.testing.assert_close(found, theirs.eval()(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("gpt2", TP, "no base_model_tp_plan"),
        ("granite", TP, "more than multiply"),
        ("gemma", TP, "does more than look up"),
        ("llama", {"expert_parallel_degree": 2}, "no experts"),
        ("llama", {"tensor_parallel_degree": 3}, "does not divide"),
        ("llama", {"tensor_parallel_degree": 4, "tensor_parallel_mode": "2d"}, "use tensor_parallel_mode=1d"),
        ("llama", {"tensor_parallel_degree": 8, "tensor_parallel_mode": "3d"}, "use tensor_parallel_mode=1d"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    kind: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model, _ = empty_hf(make_folder(kind, tmp_path), KERNELS)
    with pytest.raises(ConfigError, match=words):
        plan_of_hf(model, ParallelConfig(**settings))


@pytest.mark.parametrize("kind", ["gpt2", "granite"])
def test_code_that_does_more_than_layers_is_not_cut_into_stages(kind: str, tmp_path: Path) -> None:
    model, _ = empty_hf(make_folder(kind, tmp_path), KERNELS)
    with pytest.raises(CapabilityError, match="pipeline_parallel_degree=1"):
        model.block_names()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"config\.json"):
        empty_hf(tmp_path, KERNELS)


def _add(path: Path, **tensors: torch.Tensor) -> None:
    file = path / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})


def test_tensors_without_a_place_are_named(tmp_path: Path) -> None:
    path = make_folder("llama", tmp_path)
    _add(path, **{"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)})
    with pytest.raises(ArtefactError, match=r"LlamaForCausalLM has no place for: .*q_proj\.lora_A\.weight"):
        empty_hf(path, KERNELS)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),  # computed from the config
        ("qwen3", "lm_head.weight"),  # tied to the embedding
        ("gpt2", "h.1.attn.masked_bias"),  # a constant; transformers names it among what it leaves out
    ],
)
def test_what_is_left_out_is_told(
    kind: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_folder(kind, tmp_path)
    _add(path, **{name: torch.ones(3)})
    with caplog.at_level(logging.INFO, "portable.model.hf.folder"):
        empty_hf(path, KERNELS)
    assert f"1 tensors are left out, as {type_of(kind)} leaves them out: {name}" in caplog.text


def type_of(kind: str) -> str:
    return {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel"}[kind]


def test_a_config_without_a_limit_of_positions_is_read() -> None:
    sizes: dict[str, Any] = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2}
    assert HfSettings.of(SimpleNamespace(**sizes)).max_seq_len is None
    assert HfSettings.of(SimpleNamespace(**sizes, max_seq_len=64)).max_seq_len == 64


def test_a_config_without_heads_is_refused() -> None:
    with pytest.raises(CapabilityError, match="this mamba model has no num_attention_heads"):
        HfSettings.of(SimpleNamespace(model_type="mamba", vocab_size=9, hidden_size=8))
