import torch
from torch.nn import functional as F

from portable.model.config import MoeConfig
from portable.model.moe.experts import Experts


def test_a_token_gets_the_weighted_sum_of_its_experts(kernels):
    experts = Experts(6, MoeConfig(num_experts=4, top_k=2, intermediate_size=5), kernels)
    for seed, parameter in enumerate(experts.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([[0, 2], [2, 0], [0, 1], [1, 0], [2, 1], [0, 2], [2, 0]])  # none meets expert 3
    weights = torch.rand(7, 2, generator=torch.Generator().manual_seed(1))
    out = experts(x, weights, chosen)
    out.sum().backward()
    for token in range(7):
        expected = sum(
            weights[token, k]
            * (experts.down[e] @ (F.silu(experts.gate[e] @ x[token]) * (experts.up[e] @ x[token])))
            for k, e in enumerate(chosen[token].tolist())
        )
        torch.testing.assert_close(out[token], expected, rtol=1e-5, atol=1e-5)
    for parameter in experts.parameters():
        assert (parameter.grad[3] == 0).all()
        assert (parameter.grad[:3] != 0).any()


def test_some_of_the_experts_can_compute_alone(kernels):
    experts = Experts(6, MoeConfig(num_experts=4, top_k=2, intermediate_size=5), kernels)
    for name, parameter in list(experts.named_parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        setattr(experts, name, torch.nn.Parameter(parameter.detach()[2:]))
    out = experts(torch.ones(3, 6), torch.ones(3, 1), torch.tensor([[1], [0], [1]]))
    assert out.shape == (3, 6)
    torch.testing.assert_close(out[0], out[2])
    assert not torch.allclose(out[0], out[1])
    assert experts(torch.ones(0, 6), torch.ones(0, 1), torch.ones(0, 1, dtype=torch.int64)).shape == (0, 6)
