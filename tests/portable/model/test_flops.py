from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.model.config import Gate, MlaConfig, ModelConfig, MoeConfig, MtpConfig
from portable.model.flops import (
    matmul_parameters,
    num_active_parameters,
    num_parameters,
    train_flops_per_token,
)
from portable.model.init import new_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_parameter_count_is_the_models_own(make_config, kernels, tied, qk_norm):
    config = make_config(tie_embeddings=tied, qk_norm=qk_norm)
    assert num_parameters(config) == sum(p.numel() for p in new_model(config, kernels, 0).parameters())


MLA = MlaConfig(kv_lora_rank=12, q_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=16)
LATENT = {"mla": MLA, "num_kv_heads": 4, "qk_norm": False}
MOE = MoeConfig(
    num_experts=6, intermediate_size=24, num_shared_experts=1, first_dense_layers=1, gate=Gate.sigmoid
)


@pytest.mark.parametrize(
    "changes",
    [
        {"moe": MOE, "mtp": MtpConfig(num_layers=2)},
        LATENT,
        LATENT | {"mla": replace(MLA, q_lora_rank=0), "moe": MOE},
        {"qkv_bias": True, "qk_norm": False},
    ],
    ids=["experts and depths", "latent", "latent without query latent, experts", "biases"],
)
def test_parameter_count_of_every_part_is_the_models_own(make_config, kernels, changes):
    config = make_config(**changes)
    model = new_model(config, kernels, 0)
    assert num_parameters(config) == sum(p.numel() for p in model.parameters())
    idle = sum(p.numel() * 4 // 6 for name, p in model.named_parameters() if "experts" in name)
    assert num_active_parameters(config) == num_parameters(config) - idle


def test_flops_of_experts_latents_and_depths_agree_with_torchs_counter(make_config):
    rows = {"attention": "reference", "grouped_matmul": "reference"}
    config = make_config(tie_embeddings=False, moe=MOE, mtp=MtpConfig(), **LATENT)
    model = new_model(config, KernelSet("cpu", "fp32", KernelConfig(rows=rows)), 0)
    model.log_probs = lambda hidden, weight, targets, temperature: (hidden @ weight.T).sum(-1)
    ids = torch.arange(16)[None]
    with FlopCounterMode(display=False) as counter:
        model(ids, ids, targets=ids).sum().backward()
    assert counter.get_total_flops() == pytest.approx(16 * train_flops_per_token(config, 16), rel=0.01)


def test_flops_agree_with_torchs_counter(make_config):
    # The reference attention computes every score, as the formula counts.
    plain = KernelConfig(rows={"attention": "reference"})
    config = make_config(tie_embeddings=False)
    model = new_model(config, KernelSet("cpu", "fp32", plain), 0)
    ids = torch.zeros(1, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids, torch.arange(16)[None])).sum().backward()
    assert counter.get_total_flops() == pytest.approx(16 * train_flops_per_token(config, 16), rel=0.01)


def test_embedding_lookup_is_no_matmul(make_config):
    config = make_config(tie_embeddings=False)
    lookup = config.vocab_size * config.hidden_size
    norms = config.num_layers * (2 * config.hidden_size + 2 * config.head_dim) + config.hidden_size
    assert num_parameters(config) - matmul_parameters(config) == lookup + norms


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("llama3_8b", 8_030_261_248, 8_030_261_248),  # as the published checkpoints count
        ("llama3_70b", 70_553_706_496, 70_553_706_496),
        ("mixtral_8x7b", 46_702_792_704, 46_702_792_704),
        ("qwen3_0_6b", 596_049_920, 596_049_920),
        ("qwen3_8b", 8_190_735_360, 8_190_735_360),
        ("qwen3_30b_a3b", 30_532_122_624, 30_532_122_624),
        ("deepseek_v3", 682_000_000_000, 683_000_000_000),  # 671 B, and 11.5 B of multi-token prediction
        ("moe_mini", 300_000, 400_000),
        ("quickstart", 3_000_000, 4_000_000),
        ("quickstart_mini", 250_000, 350_000),
    ],
)
def test_shapes_in_conf_have_the_size_they_claim(name, low, high):
    conf = OmegaConf.load(Path(__file__).parents[3] / "conf" / "model" / f"{name}.yaml")
    assert "base_model" in conf.pop("defaults")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), conf))
    assert isinstance(config, ModelConfig)
    assert low <= num_parameters(config) <= high
    defaults = OmegaConf.structured(ModelConfig)
    repeated = [key for key, value in conf.items() if value == defaults[key]]
    assert not repeated, "a default is written once, in the dataclass"
