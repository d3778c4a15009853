from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.flops import matmul_parameters, num_parameters, train_flops_per_token
from portable.model.init import new_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_parameter_count_is_the_models_own(make_config, kernels, tied, qk_norm):
    config = make_config(tie_embeddings=tied, qk_norm=qk_norm)
    assert num_parameters(config) == sum(p.numel() for p in new_model(config, kernels, 0).parameters())


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
        ("qwen3_0_6b", 596_049_920, 596_049_920),
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
