from dataclasses import replace

import pytest
import transformers

from portable.core.errors import ArtefactError
from portable.model.config import Gate, MlaConfig, MoeConfig, MtpConfig, RopeConfig, RopeScaling
from portable.model.hf_config import ARCHITECTURES, architecture, from_hf_config, to_hf_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaling", list(RopeScaling))
def test_round_trip_and_transformers_reads_it(make_config, tokenizer, qk_norm, tied, scaling):
    rope = RopeConfig(theta=5e5)
    if scaling is not RopeScaling.none:
        rope = RopeConfig(theta=5e5, scaling=scaling, factor=2.0)
    if scaling is RopeScaling.llama3:
        rope.original_max_seq_len, rope.low_freq_factor, rope.high_freq_factor = 32, 1.5, 3.5
    ours = make_config(qk_norm=qk_norm, tie_embeddings=tied, rope=rope)
    hf = to_hf_config(ours, tokenizer, "float32")
    assert from_hf_config(hf, "x") == ours
    theirs = transformers.AutoConfig.for_model(**hf)
    assert theirs.architectures == ["Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM"]
    assert from_hf_config(theirs.to_dict(), "x") == ours
    assert theirs.eos_token_id == tokenizer.eos_token_id
    assert theirs.pad_token_id == tokenizer.pad_token_id


def test_old_spelling_of_rope_is_read():
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE, "max_position_embeddings": 64}
    rope = from_hf_config(old, "x").rope
    assert rope == RopeConfig(theta=5e5, scaling=RopeScaling.llama3, factor=8.0, original_max_seq_len=16)
    older = LLAMA | {"rope_scaling": {"type": "linear", "factor": 3}, "rope_theta": None}
    assert from_hf_config(older, "x").rope == RopeConfig(scaling=RopeScaling.linear, factor=3.0)
    assert from_hf_config(LLAMA | {"rope_scaling": None}, "x").rope == RopeConfig()


def test_absent_settings_take_the_architectures_defaults():
    llama = from_hf_config(LLAMA | {"head_dim": None}, "x")
    assert (llama.num_kv_heads, llama.head_dim, llama.tie_embeddings, llama.qk_norm) == (4, 8, False, False)
    qwen = from_hf_config(LLAMA | {"model_type": "qwen3"}, "x")
    assert (qwen.head_dim, qwen.qk_norm) == (transformers.Qwen3Config().head_dim, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, ["gpt2", "llama, mixtral", "or qwen3_moe", "engine=hf"]),
        ({"model_type": None}, ["None"]),
        ({"attention_bias": True}, ["attention_bias=True"]),
        ({"mlp_bias": True}, ["mlp_bias=True"]),
        ({"use_sliding_window": True, "sliding_window": 16}, ["use_sliding_window=True"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["sliding_attention"]),
        ({"hidden_act": "gelu"}, ["hidden_act='gelu'", "silu"]),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, ["rope_type='yarn'", "max_position_embeddings"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2, "truncate": False}}, ["truncate=false"]),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, ["rope_type='dynamic'", "linear"]),
        ({"model_type": "mixtral", "sliding_window": 16}, ["sliding_window=16"]),
        ({"model_type": "mixtral"}, ["num_local_experts", "mixtral"]),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [1]}, ["mlp_only_layers=[1]", "first layers"]),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, ["decoder_sparse_step=2"]),
        ({"model_type": "deepseek_v3", "scoring_func": "softmax"}, ["scoring_func='softmax'", "'sigmoid'"]),
        ({"model_type": "deepseek_v3"}, ["kv_lora_rank", "deepseek_v3"]),
        ({"rope_parameters": {"rope_type": "linear"}}, ["needs factor"]),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            ["partial_rotary_factor=0.5"],
        ),
    ],
)
def test_what_we_cannot_compute_is_refused_with_its_name(changes, words):
    with pytest.raises(ArtefactError) as caught:
        from_hf_config(LLAMA | changes, "some/config.json")
    for word in ["some/config.json", *words]:
        assert word in str(caught.value)


def test_incomplete_file_names_what_is_missing():
    with pytest.raises(ArtefactError, match="lacks hidden_size, num_attention_heads"):
        from_hf_config(
            {key: value for key, value in LLAMA.items() if key not in ("hidden_size", "num_attention_heads")},
            "x",
        )


def test_harmless_settings_pass():
    config = from_hf_config(
        LLAMA | {"attention_bias": False, "sliding_window": 4096, "use_sliding_window": False}, "x"
    )
    assert config.num_layers == 2


SPARSE = MoeConfig(num_experts=6, top_k=3, intermediate_size=48, aux_loss_coef=0.01, router_z_loss_coef=0.002)
LATENT = {
    "mla": MlaConfig(kv_lora_rank=12, q_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=8),
    "num_kv_heads": 4,
    "qk_norm": False,
}
GROUPED = MoeConfig(
    num_experts=8,
    intermediate_size=24,
    num_shared_experts=2,
    first_dense_layers=1,
    gate=Gate.sigmoid,
    renormalize=False,
    routed_scale=2.5,
    num_groups=4,
    top_k_groups=2,
    aux_loss_coef=0.001,
    bias_update_rate=0.01,
)
SHAPES = {
    "qwen2": {"qk_norm": False, "qkv_bias": True},
    "mixtral": {"qk_norm": False, "moe": SPARSE},
    "qwen3_moe": {"moe": replace(SPARSE, first_dense_layers=1, renormalize=False)},
    "deepseek_v3": LATENT | {"moe": GROUPED, "mtp": MtpConfig(loss_coef=0.1)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_every_architecture_makes_the_round_trip(make_config, tokenizer, kind):
    ours = make_config(**SHAPES[kind])
    assert architecture(ours) == kind
    hf = to_hf_config(ours, tokenizer, "float32")
    assert from_hf_config(hf, "x") == ours
    theirs = transformers.AutoConfig.for_model(**hf)
    assert theirs.architectures == [ARCHITECTURES[kind]]
    assert from_hf_config(theirs.to_dict(), "x") == ours


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qkv_bias": True}, "qk_norm with qkv_bias"),
        ({"mtp": MtpConfig()}, "mtp without"),
        (LATENT, "mla without moe"),
        (LATENT | {"moe": SPARSE}, "softmax gate"),
        ({"moe": GROUPED}, "sigmoid gate"),
        ({"moe": SPARSE, "qkv_bias": True, "qk_norm": False}, "moe with qkv_bias"),
        ({"moe": replace(SPARSE, first_dense_layers=1), "qk_norm": False}, "first_dense_layers"),
    ],
)
def test_shapes_that_transformers_has_not_are_refused(make_config, changes, words):
    with pytest.raises(ArtefactError, match=words):
        architecture(make_config(**changes))
