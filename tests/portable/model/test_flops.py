import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.model.flops import matmul_parameters, num_parameters, train_flops_per_token
from portable.model.init import new_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_parameter_count_is_the_models_own(make_config, kernels, tied, qk_norm):
    config = make_config(tie_embeddings=tied, qk_norm=qk_norm)
    assert num_parameters(config) == sum(p.numel() for p in new_model(config, kernels, 0).parameters())


def test_flops_agree_with_torchs_counter(make_config):
    # The reference attention computes every score, as the formula counts; torch counts 2 FLOPs a multiply-add.
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
