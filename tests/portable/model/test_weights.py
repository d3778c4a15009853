import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from portable.core.errors import ArtefactError
from portable.core.storage import read_json, write_json
from portable.model.config import Gate, MlaConfig, MoeConfig, MtpConfig, RopeConfig, RopeScaling
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weight_stream import StoredWeights
from portable.model.weights import (
    hf_name,
    load_model,
    read_box,
    read_config,
    save_model,
    stored_shape,
    weight_files,
)

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


DEEPSEEK = {
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.8,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
}
THEIRS = {
    "qwen2": ("qwen2", {"head_dim": 8}),
    "mixtral": ("mixtral", {"head_dim": 16}),
    "qwen3_moe": (
        "qwen3_moe",
        {
            "num_experts": 4,
            "mlp_only_layers": [0],
            "head_dim": 16,
            "moe_intermediate_size": 24,
            "num_experts_per_tok": 2,
        },
    ),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "deepseek_v3, plain queries, halves": (
        "deepseek_v3",
        DEEPSEEK | {"q_lora_rank": None, "rope_interleave": False, "n_group": 1, "topk_group": 1},
    ),
    "deepseek_v3, yarn": ("deepseek_v3", DEEPSEEK | {"rope_parameters": YARN}),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_architecture_of_theirs_gives_us_their_logits_and_back(
    kernels, tokenizer, tmp_path, name, fused
):
    torch.manual_seed(0)
    kind, changes = THEIRS[name]
    shape = {"vocab_size": 270, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    hf = transformers.AutoConfig.for_model(kind, **(shape | heads | {"initializer_range": 0.2} | changes))
    theirs = transformers.AutoModelForCausalLM.from_config(hf).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith("bias"):  # biases that are zero would hide that they are not read
            value.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=not fused)
    ours, config = load_model(tmp_path / "theirs", kernels)
    torch.testing.assert_close(*logits_of_both(ours, theirs), rtol=0, atol=1e-5)
    save_model(ours, config, tokenizer, tmp_path / "ours")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for key, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    if fused:
        return
    files = [set(load_file(tmp_path / side / "model.safetensors")) for side in ("theirs", "ours")]
    assert files[0] == files[1], "our tensors are called as theirs"


def test_boxes_of_stacked_experts_are_read_from_their_own_tensors(make_config, kernels, tokenizer, tmp_path):
    config = make_config(moe=MoeConfig(num_experts=6, intermediate_size=8))
    model = new_model(config, kernels, 0)
    save_model(model, config, tokenizer, tmp_path)
    stored = StoredWeights(tmp_path)
    for name, value in model.state_dict().items():
        assert stored_shape(stored, config, name, len(value)) == tuple(value.shape), name
        assert torch.equal(read_box(stored, config, name, (0,) * value.ndim, tuple(value.shape)), value), name
    up = model.blocks["1"].mlp.experts.up
    box = read_box(stored, config, "blocks.1.mlp.experts.up", (2, 3, 0), (3, 4, 32))
    assert torch.equal(box, up[2:5, 3:7])
    assert read_box(stored, config, "blocks.1.mlp.experts.up", (6, 0, 0), (0, 8, 32)).shape == (0, 8, 32)
    assert stored_shape(stored, config, "blocks.1.mlp.experts.up", 7) is None
    with pytest.raises(ArtefactError, match=r"lacks the tensor.*experts\.6"):
        read_box(stored, config, "blocks.1.mlp.experts.up", (6, 0, 0), (1, 8, 32))


def test_depths_of_prediction_are_kept_and_forgotten_with_their_weights(
    make_config, kernels, tokenizer, tmp_path
):
    mla = MlaConfig(kv_lora_rank=12, q_lora_rank=20, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8)
    moe = MoeConfig(num_experts=4, intermediate_size=8, num_shared_experts=1, gate=Gate.sigmoid)
    config = make_config(mla=mla, moe=moe, mtp=MtpConfig(), num_kv_heads=4, qk_norm=False)
    model = new_model(config, kernels, 0)
    save_model(model, config, tokenizer, tmp_path)
    again, read = load_model(tmp_path, kernels)
    assert read == config
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(*logits_of_both(model, theirs), rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "without")
    assert read_config(tmp_path / "without").mtp is None
    load_model(tmp_path / "without", kernels)


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
