import pytest
import torch
import transformers
from safetensors.torch import load_file

from portable.core.artefact import open_artefact
from portable.core.errors import ArtefactError, ConfigError
from portable.core.workspace import Workspace
from portable.model.export import check_tokenizer, compare_logits, run_export
from portable.model.export_config import ExportConfig, ExportDtype
from portable.model.flops import num_parameters
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model, save_model


@pytest.fixture
def source(make_config, kernels, tokenizer, tmp_path):
    config = make_config()
    save_model(new_model(config, kernels, 0), config, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def export(source, target, **changes):
    return run_export(ExportConfig(model_path=str(source), **changes), Workspace(target))


def test_export_is_checked_sealed_and_loads(source, make_config, tmp_path):
    artefact = export(source, tmp_path / "out")
    assert open_artefact(tmp_path / "out", "model", verify=True).digest == artefact.digest
    assert artefact.summary["parameters"] == num_parameters(make_config())
    assert 0 < artefact.summary["max_logit_difference"] <= 1e-4
    assert artefact.summary["dtype"] == "float32"
    ours = load_file(source / "model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_second_run_in_the_same_folder_gives_the_same_payload(source, tmp_path):
    first = export(source, tmp_path / "out")
    assert export(source, tmp_path / "out").digest == first.digest
    assert export(source, tmp_path / "other").digest == first.digest


@pytest.mark.parametrize("dtype", [ExportDtype.bf16, ExportDtype.fp16])
def test_number_format_is_converted_and_then_kept(source, tmp_path, dtype):
    name = str({"bf16": torch.bfloat16, "fp16": torch.float16}[dtype.name]).removeprefix("torch.")
    half = export(source, tmp_path / "half", dtype=dtype)
    assert half.summary["dtype"] == name
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{name}"}
    again = export(tmp_path / "half", tmp_path / "again")
    assert again.summary["dtype"] == name
    assert again.digest == half.digest


def test_values_that_overflow_the_format_are_refused(source, kernels, tokenizer, tmp_path):
    model, config = load_model(source, kernels)
    with torch.no_grad():
        model.embed.weight[0, 0] = 1e6
    save_model(model, config, tokenizer, tmp_path / "big")
    with pytest.raises(ArtefactError, match=r"embed\.weight.*not finite as fp16"):
        export(tmp_path / "big", tmp_path / "out", dtype=ExportDtype.fp16)
    assert not (tmp_path / "out" / "artefact.json").exists()


def test_different_logits_fail(source, kernels):
    model, _ = load_model(source, kernels)
    config = ExportConfig(model_path=str(source))
    assert compare_logits(model, source, config) <= 1e-4
    with torch.no_grad():
        model.blocks["1"].mlp.down.weight[0, 0] += 0.1
    with pytest.raises(ArtefactError, match=r"differ by .* more than export\.max_logit_difference"):
        compare_logits(model, source, config)
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(ArtefactError, match="differ by nan"):
        compare_logits(model, source, config)


def test_different_tokenizer_fails(source, tokenizer):
    check_tokenizer(tokenizer, source)
    other = Tokenizer(tokenizer.inner, tokenizer.settings | {"chat_template": "{{ messages[1]['content'] }}"})
    with pytest.raises(ArtefactError, match="reads a conversation as"):
        check_tokenizer(other, source)
    without = Tokenizer(tokenizer.inner, {"eos_token": "<|end|>"})
    check_tokenizer(without, source)


def test_card_tells_the_shape_and_no_paths(source, tmp_path):
    export(source, tmp_path / "out", max_logit_difference=2e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("Qwen3ForCausalLM", "| Layers | 2 |", "| Vocabulary | 270 |", "float32", "0.0002"):
        assert words in card
    assert str(tmp_path) not in card


def test_source_and_target_must_differ(source):
    with pytest.raises(ConfigError, match="also the output folder"):
        export(source, source)


def test_missing_source_is_named(tmp_path):
    with pytest.raises(ArtefactError, match=r"nowhere.*no config\.json"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_progress_bars_of_transformers_are_left_as_found(source, tmp_path):
    from transformers.utils import logging as hf_logging

    assert hf_logging.is_progress_bar_enabled()
    export(source, tmp_path / "out")
    assert hf_logging.is_progress_bar_enabled()
