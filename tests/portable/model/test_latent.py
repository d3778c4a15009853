import pytest
import torch

from portable.model.config import MlaConfig, RopeConfig, RopeScaling
from portable.model.init import new_model

MLA = {"kv_lora_rank": 12, "q_lora_rank": 20, "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 8}


@pytest.fixture(params=[20, 0], ids=["query latent", "plain queries"])
def model(request, make_config, kernels):
    mla = MlaConfig(**(MLA | {"q_lora_rank": request.param}))
    config = make_config(mla=mla, num_kv_heads=4, qk_norm=False, rope=RopeConfig(theta=100.0))
    return new_model(config, kernels, seed=1)


def test_it_equals_the_formula_head_by_head(model):
    attention = model.blocks["0"].attention
    x = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(7)[None]
    out = attention(x, model._rotary(positions), None, None)
    queries = attention._queries(x)[0].view(7, 4, 16)
    latent, shared = attention.kv_down(x)[0].split([12, 6], -1)
    expanded = attention.kv_up(attention.kv_down_norm(latent)).view(7, 4, 18)
    turns = torch.arange(7)[:, None] * 100.0 ** (-torch.arange(3) / 3)  # pairs of neighbours

    def turn(part):
        pairs = torch.view_as_complex(part.reshape(7, 3, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones(7, 3), turns)).flatten(-2)

    heads = []
    for head in range(4):
        q = torch.cat((queries[:, head, :10], turn(queries[:, head, 10:])), -1)
        k = torch.cat((expanded[:, head, :10], turn(shared)), -1)
        scores = (q @ k.T / 4).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ expanded[:, head, 10:])
    torch.testing.assert_close(out[0], attention.o(torch.cat(heads, -1)), rtol=1e-5, atol=1e-5)


def test_every_parameter_learns(model):
    ids = torch.arange(9)[None]
    model(ids, ids, targets=ids.roll(-1)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert ("q_down" in "".join(dict(model.named_parameters()))) == bool(model.config.mla.q_lora_rank)


def test_yarn_sharpens_the_softmax(make_config, kernels):
    yarn = RopeConfig(scaling=RopeScaling.yarn, factor=40.0, original_max_seq_len=16, mscale_all_dim=1.0)
    config = make_config(mla=MlaConfig(**MLA), num_kv_heads=4, qk_norm=False, rope=yarn)
    scale = new_model(config, kernels, 0).blocks["0"].attention.scale
    assert scale == pytest.approx((0.1 * 3.6888794541 + 1) ** 2)  # ln 40
