import subprocess
import sys

import pytest

from portable.core.errors import ConfigError
from portable.model.config import Gate, MlaConfig, ModelConfig, MoeConfig, MtpConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, ["num_kv_heads=4", "num_heads=6", "[1, 2, 3, 6]"]),
        ({"head_dim": 31}, ["head_dim=31", "even"]),
        ({"vocab_size": 0}, ["vocab_size=0", "positive"]),
        ({"num_kv_heads": 0}, ["num_kv_heads=0", "positive"]),
        ({"num_heads": -4}, ["num_heads=-4", "positive"]),
        ({"max_seq_len": -1}, ["max_seq_len=-1", "positive"]),
    ],
)
def test_impossible_shapes_name_field_value_and_remedy(changes, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (MoeConfig, {"num_experts": 0}, ["model.moe.num_experts=0", "positive"]),
        (MoeConfig, {"top_k": 9}, ["model.moe.top_k=9", "8"]),
        (MoeConfig, {"aux_loss_coef": -0.1}, ["model.moe.aux_loss_coef=-0.1", "0 (off)"]),
        (MoeConfig, {"bias_update_rate": 0.1}, ["gate=softmax", "gate=sigmoid"]),
        (MoeConfig, {"gate": Gate.sigmoid, "num_groups": 3}, ["num_groups=3", "[1, 2, 4]"]),
        (MoeConfig, {"gate": Gate.sigmoid, "num_groups": 8}, ["num_groups=8", "[1, 2, 4]"]),
        (MoeConfig, {"gate": Gate.sigmoid, "num_groups": 4, "top_k": 3}, ["top_k_groups=1", "2 to 4"]),
        (MlaConfig, {"kv_lora_rank": 0}, ["model.mla.kv_lora_rank=0", "positive"]),
        (MlaConfig, {"qk_rope_head_dim": 7}, ["qk_rope_head_dim=7", "even"]),
        (MlaConfig, {"v_head_dim": 200}, ["v_head_dim=200", "192"]),
        (MtpConfig, {"num_layers": 0}, ["model.mtp.num_layers=0", "positive"]),
        (ModelConfig, {"mla": MlaConfig()}, ["model.head_dim=32", "192"]),
        (ModelConfig, {"mla": MlaConfig(), "head_dim": 192}, ["model.num_kv_heads=4", "8"]),
        (ModelConfig, {"moe": MoeConfig(first_dense_layers=6)}, ["first_dense_layers=6", "moe=null"]),
    ],
)
def test_impossible_parts_name_field_value_and_remedy(kind, changes, words):
    with pytest.raises(ConfigError) as caught:
        kind(**changes)
    for word in words:
        assert word in str(caught.value)


def test_default_shape_is_legal_and_each_owns_its_rope():
    first, second = ModelConfig(), ModelConfig()
    first.rope.theta = 1.0
    assert second.rope.theta == 10_000.0


def test_configs_import_without_torch():
    code = (
        "import sys, portable.model.config, portable.model.export_config, portable.kernel.config, "
        "portable.hardware.spec; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
