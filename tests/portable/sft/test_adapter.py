import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime
from portable.sft.adapter import LoraMerge, add_lora, save_lora
from portable.sft.config import AdapterConfig, AdapterKind

LORA = AdapterConfig(kind=AdapterKind.lora, r=4, alpha=6.0)
IDS = torch.arange(24).view(2, 12)


def logits(model: Decoder) -> Tensor:
    with torch.no_grad():
        return model.logits(model(IDS, torch.arange(12).expand(2, -1)))


def shake(model: Decoder) -> None:
    """Move every adapter away from zero, as training would."""
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.empty(parameter.shape).normal_(0, 0.2, generator=stream))


def merged(model: Decoder, config: AdapterConfig) -> dict[str, Tensor]:
    state = model.state_dict()
    merge = LoraMerge(state, config)
    return {
        name: merge.weight(trained, value)
        for trained, value in state.items()
        if (name := merge.name(trained)) is not None
    }


def test_a_fresh_adapter_changes_nothing_and_is_all_that_learns(model: Decoder):
    before = logits(model)
    add_lora(model, LORA, seed=0)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 7 * 2  # layers, matrices of each, A and B


def test_merged_logits_equal_those_of_the_adapter(model: Decoder, runtime: Runtime):
    before = logits(model)
    add_lora(model, LORA, seed=0)
    shake(model)
    adapted = logits(model)
    plain = new_model(model.config, runtime.kernels, seed=9)
    plain.load_state_dict(merged(model, LORA))
    torch.testing.assert_close(logits(plain), adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - before).abs().max() > 0.01


def test_the_merge_is_pefts_own(model: Decoder):
    add_lora(model, LORA, seed=0)
    shake(model)
    ours = merged(model, LORA)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    for name, layer in layers.items():
        layer.merge()
        torch.testing.assert_close(ours[f"{name}.weight"], layer.get_base_layer().weight, rtol=0, atol=1e-6)
    assert len(layers) == 14


def test_what_is_not_adapted_stays_bit_for_bit(model: Decoder):
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = AdapterConfig(kind=AdapterKind.lora, r=2, target_modules=["q"])
    add_lora(model, config, seed=0)
    shake(model)
    found = merged(model, config)
    assert found.keys() == original.keys()
    changed = {name for name in original if not torch.equal(found[name], original[name])}
    assert changed == {"blocks.0.attention.q.weight", "blocks.1.attention.q.weight"}


def test_the_saved_adapter_works_in_peft_on_transformers(
    model: Decoder, model_config: ModelConfig, tokenizer: Tokenizer, model_dir: Path, tmp_path: Path
):
    add_lora(model, LORA, seed=0)
    shake(model)
    save_lora(model.state_dict(), LORA, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, logits(model), rtol=1e-4, atol=1e-5)
    save_model(merged(model, LORA), model_config, tokenizer, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, logits(model), rtol=1e-4, atol=1e-5)


def test_the_saved_files_do_not_depend_on_chance(model: Decoder, tmp_path: Path):
    add_lora(model, LORA, seed=0)
    for name in ("a", "b"):
        save_lora(model.state_dict(), LORA, tmp_path / name)
    settings = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_adapters_start_alike_in_every_process(model: Decoder, runtime: Runtime):
    twin = new_model(model.config, runtime.kernels, seed=3)
    torch.manual_seed(1)
    add_lora(model, LORA, seed=5)
    torch.manual_seed(2)
    add_lora(twin, LORA, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_target_that_is_no_layer_is_named(model: Decoder):
    with pytest.raises(
        ConfigError, match=r"names 'gates', which is no linear layer of the model. Did you mean 'gate'"
    ):
        add_lora(model, AdapterConfig(target_modules=["q", "gates"]), seed=0)
