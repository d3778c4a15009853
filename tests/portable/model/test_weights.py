import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from portable.core.errors import ArtefactError
from portable.core.storage import read_json, write_json
from portable.model.config import RopeConfig, RopeScaling
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import hf_name, load_model, read_config, save_model, weight_files

LLAMA3 = RopeConfig(theta=5e5, scaling=RopeScaling.llama3, factor=8.0, original_max_seq_len=16)
SHAPES = {
    "qwen3 tied": {},
    "qwen3 untied": {"tie_embeddings": False},
    "llama tied": {"qk_norm": False, "rms_norm_eps": 1e-5},
    "llama untied, llama3 rope": {"qk_norm": False, "tie_embeddings": False, "rope": LLAMA3},
}


def logits_of_both(ours, theirs, tokens=48):
    ids = torch.randint(0, 270, (2, tokens), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ours.logits(ours(ids, torch.arange(tokens).expand(2, -1))), theirs(ids).logits


@pytest.mark.parametrize("name", SHAPES)
def test_our_folder_gives_transformers_our_logits(make_config, kernels, tokenizer, tmp_path, name):
    config = make_config(**SHAPES[name])
    ours = new_model(config, kernels, 0)
    save_model(ours, config, tokenizer, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(*logits_of_both(ours, theirs), rtol=0, atol=1e-5)
    assert theirs.generation_config.eos_token_id == list(tokenizer.stop_token_ids)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_their_folder_gives_us_their_logits(kernels, tmp_path, kind, tied):
    torch.manual_seed(0)
    rope = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    hf = transformers.AutoConfig.for_model(
        kind,
        vocab_size=270,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        rope_parameters=rope,
    )
    theirs = transformers.AutoModelForCausalLM.from_config(hf).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(weight_files(tmp_path)) > 2, "the index must be read, too"
    ours, config = load_model(tmp_path, kernels)
    assert (config.qk_norm, config.tie_embeddings) == (kind == "qwen3", tied)
    torch.testing.assert_close(*logits_of_both(ours, theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("limit", [10**9, 20_000])
def test_round_trip_is_exact_and_repeatable(make_config, kernels, tokenizer, tmp_path, limit):
    config = make_config(tie_embeddings=False)
    model = new_model(config, kernels, 0)
    for folder in ("a", "b"):
        save_model(model, config, tokenizer, tmp_path / folder, max_shard_bytes=limit)
    files = weight_files(tmp_path / "a")
    assert (len(files) == 1) == (limit > 20_000)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    again, read = load_model(tmp_path / "a", kernels)
    assert read == config
    assert list(again.state_dict()) == list(model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert Tokenizer.load(tmp_path / "a").encode("hi") == tokenizer.encode("hi")


def test_index_is_what_transformers_expects(make_config, kernels, tokenizer, tmp_path):
    config = make_config()
    save_model(new_model(config, kernels, 0), config, tokenizer, tmp_path, max_shard_bytes=20_000)
    index = read_json(tmp_path / "model.safetensors.index.json")
    sizes = {
        key: tensor.nbytes
        for name in weight_files(tmp_path)[1:]
        for key, tensor in load_file(tmp_path / name).items()
    }
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert set(index["weight_map"]) == set(sizes)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_state_dict_saves_like_its_model_and_replaces_old_shards(make_config, kernels, tokenizer, tmp_path):
    config = make_config()
    model = new_model(config, kernels, 0)
    save_model(model, config, tokenizer, tmp_path, max_shard_bytes=20_000)
    save_model(model.state_dict(), config, tokenizer, tmp_path)
    assert weight_files(tmp_path) == ["model.safetensors"]
    assert [file.name for file in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_number_format_is_kept_on_disk_and_cast_on_load(make_config, kernels, tokenizer, tmp_path):
    config = make_config()
    model = new_model(config, kernels, 0, dtype=torch.bfloat16)
    save_model(model, config, tokenizer, tmp_path)
    assert read_json(tmp_path / "config.json")["dtype"] == "bfloat16"
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "model.safetensors").values()
    )
    again, _ = load_model(tmp_path, kernels)
    assert again.embed.weight.dtype == torch.float32
    assert torch.equal(again.embed.weight, model.embed.weight.float())


@pytest.fixture
def folder(make_config, kernels, tokenizer, tmp_path):
    config = make_config()
    save_model(new_model(config, kernels, 0), config, tokenizer, tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks 1 tensors, e.g. model.norm.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra', for which"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(7)}),
            r"model.norm.weight' has shape \(7,\).*\(32,\)",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(270, 32)}),
            "tie_word_embeddings=true, but lm_head",
        ),
    ],
)
def test_wrong_tensors_are_named(folder, kernels, change, message):
    rewrite(folder, change)
    with pytest.raises(ArtefactError, match=message):
        load_model(folder, kernels)


def test_tied_head_stored_twice_and_old_frequencies_are_accepted(folder, kernels):
    before, _ = load_model(folder, kernels)
    rewrite(
        folder,
        lambda t: t.update(
            {
                "lm_head.weight": t["model.embed_tokens.weight"].clone(),
                "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8),
            }
        ),
    )
    after, _ = load_model(folder, kernels)
    assert torch.equal(before.embed.weight, after.embed.weight)


def test_damaged_and_missing_files_are_named(folder, kernels):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match=r"model\.safetensors is damaged"):
        load_model(folder, kernels)
    weights.unlink()
    with pytest.raises(ArtefactError, match=r"holds no model\.safetensors"):
        load_model(folder, kernels)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"x": "model-1.safetensors"}})
    with pytest.raises(ArtefactError, match=r"lacks 'model-1\.safetensors'"):
        load_model(folder, kernels)
    (folder / "config.json").unlink()
    with pytest.raises(ArtefactError, match=r"no config\.json"):
        read_config(folder)


def test_pickled_weights_are_not_read(folder, kernels):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ArtefactError, match="safetensors files only"):
        load_model(folder, kernels)


def test_tokenizer_larger_than_the_model_is_refused(make_config, kernels, tokenizer, tmp_path):
    config = make_config(vocab_size=261)
    with pytest.raises(ArtefactError, match=r"262 tokens.*261"):
        save_model(new_model(config, kernels, 0), config, tokenizer, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_names_of_wrapped_models_are_refused():
    assert hf_name("blocks.11.mlp.up.weight") == "model.layers.11.mlp.up_proj.weight"
    for name in ("module.blocks.0.mlp.up.weight", "blocks.0.mlp.up.lora_A.weight", "embed.bias"):
        with pytest.raises(ArtefactError, match="without its wrappers"):
            hf_name(name)


def test_config_file_is_plain_json_without_times(folder):
    text = (folder / "config.json").read_text()
    assert json.loads(text)["rope_parameters"] == {"rope_type": "default", "rope_theta": 10_000.0}
    assert "version" not in text
