import torch

from portable.model.config import Gate, MoeConfig
from portable.model.init import empty_model, init_weights, initial_value, new_model


def test_same_seed_same_weights_whatever_the_global_stream(make_config, kernels):
    torch.manual_seed(1)
    first = new_model(make_config(), kernels, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = new_model(make_config(), kernels, seed=5)
    assert torch.equal(torch.get_rng_state(), state), "the global stream must not be used"
    other = new_model(make_config(), kernels, seed=6)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
        assert weight.ndim == 1 or not torch.equal(weight, other.state_dict()[name])


def test_standard_deviations_and_norms(make_config, kernels):
    config = make_config(hidden_size=128, intermediate_size=256, num_layers=8, init_std=0.02)
    for name, weight in new_model(config, kernels, seed=0).named_parameters():
        if weight.ndim == 1:
            assert (weight == 1).all(), name
            continue
        quarter = name.endswith(("attention.o.weight", "mlp.down.weight"))
        expected = 0.02 / 4 if quarter else 0.02  # sqrt(2 * 8) = 4
        assert abs(weight.std().item() / expected - 1) < 0.1, name
        assert abs(weight.mean().item()) < expected / 10, name


def test_streams_belong_to_names_not_to_places(make_config, kernels):
    shallow = new_model(make_config(num_layers=1), kernels, seed=0).state_dict()
    deep = new_model(make_config(num_layers=2), kernels, seed=0).state_dict()
    assert torch.equal(shallow["embed.weight"], deep["embed.weight"])
    assert torch.equal(shallow["blocks.0.attention.q.weight"], deep["blocks.0.attention.q.weight"])
    assert not torch.equal(deep["blocks.0.attention.q.weight"], deep["blocks.1.attention.q.weight"])


def test_16_bit_weights_are_the_rounded_32_bit_ones(make_config, kernels):
    full = new_model(make_config(), kernels, seed=0)
    half = new_model(make_config(), kernels, seed=0, dtype=torch.bfloat16)
    for name, weight in full.named_parameters():
        assert torch.equal(weight.bfloat16(), dict(half.named_parameters())[name])


def test_empty_model_can_be_filled(make_config, kernels):
    model = empty_model(make_config(), kernels, dtype=torch.float32, device="cpu")
    assert all(not p.is_meta and p.requires_grad for p in model.parameters())
    init_weights(model, 0)
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert model(ids, torch.arange(4)[None]).isfinite().all()


def test_one_value_can_be_drawn_alone(make_config, kernels):
    moe = MoeConfig(num_experts=4, intermediate_size=8, gate=Gate.sigmoid, num_shared_experts=1)
    config = make_config(moe=moe, qkv_bias=True)
    model = new_model(config, kernels, seed=5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, initial_value(config, name, value.shape, 5)), name
        assert (value == 0).all() == name.endswith(".bias"), name
    downs = [model.blocks["0"].mlp.experts.down, model.blocks["0"].mlp.shared.down.weight]
    assert all(abs(down.std().item() - 0.2 / 2) < 0.02 for down in downs)  # sqrt(2 * 2 layers) = 2


def test_buffers_stay_in_float32(make_config, kernels):
    config = make_config(moe=MoeConfig(num_experts=4, intermediate_size=8, gate=Gate.sigmoid))
    model = new_model(config, kernels, seed=5, dtype=torch.bfloat16)
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
