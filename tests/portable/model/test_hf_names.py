import pytest

from portable.core.errors import ArtefactError
from portable.model.config import Gate, MlaConfig, MoeConfig, MtpConfig
from portable.model.hf_names import hf_name, hf_parts, plain_name


def test_mixtral_has_words_of_its_own(make_config):
    config = make_config(qk_norm=False, moe=MoeConfig())
    parts = hf_parts("blocks.2.mlp.experts.up", 2, config)
    assert parts == {
        "model.layers.2.block_sparse_moe.experts.0.w3.weight": 0,
        "model.layers.2.block_sparse_moe.experts.1.w3.weight": 1,
    }
    assert [plain_name(name) for name in parts] == [
        f"model.layers.2.mlp.experts.{index}.up_proj.weight" for index in (0, 1)
    ]
    assert hf_name("blocks.2.mlp.router.weight", config) == "model.layers.2.block_sparse_moe.gate.weight"


def test_depths_of_prediction_are_further_layers(make_config):
    mla = MlaConfig(kv_lora_rank=8, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=8)
    moe = MoeConfig(gate=Gate.sigmoid, num_shared_experts=1)
    config = make_config(qk_norm=False, num_kv_heads=4, mla=mla, moe=moe, mtp=MtpConfig())
    assert hf_name("mtp.0.projection.weight", config) == "model.layers.2.eh_proj.weight"
    assert hf_name("mtp.0.block.input_norm.weight", config) == "model.layers.2.input_layernorm.weight"
    assert list(hf_parts("mtp.0.block.mlp.experts.down", 1, config)) == [
        "model.layers.2.mlp.experts.0.down_proj.weight"
    ]
    assert hf_parts("blocks.1.mlp.router.bias", 8, config) == {
        "model.layers.1.mlp.gate.e_score_correction_bias": None
    }


@pytest.mark.parametrize(
    "name", ["mtp.0.norm.weight", "blocks.0.mlp.experts.up", "blocks.0.attention.o.bias", "x"]
)
def test_what_has_no_single_name_is_refused(name):
    with pytest.raises(ArtefactError, match="is not one of a decoder"):
        hf_name(name)
