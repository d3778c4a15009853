from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check, close

pytestmark = pytest.mark.ascend_emulation

N, K, E, H = 6, 2, 4, 8


def experts() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(N)])


def test_gating_takes_the_largest_probabilities(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    x = torch.randn(N, E)
    values, chosen, rows = torch_npu.npu_moe_gating_top_k_softmax(x.npu(), None, k=K)
    expected = x.double().softmax(1)
    close(values, expected.topk(K)[0], 1e-6, "probabilities")
    close(expected.gather(1, chosen.cpu().long()).npu(), expected.topk(K)[0], 1e-6, "experts")
    assert rows.cpu().tolist() == [[row + choice * N for choice in range(K)] for row in range(N)]


def test_a_layer_of_experts_by_routing(torch_npu: ModuleType) -> None:
    """init_routing, one matrix for each expert, finalize_routing: the same as asking each token's experts."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(N, H), torch.randn(E, H, H), torch.randn(E, H)
    scales, chosen = torch.rand(N, K), experts().int()
    rows = torch.arange(N * K, dtype=torch.int32).view(K, N).T.contiguous()
    expanded, went, ordered = torch_npu.npu_moe_init_routing(x.npu(), rows.npu(), chosen.npu(), N)
    assert ordered.cpu().tolist() == sorted(chosen.flatten().tolist())
    ends = torch_npu.npu_moe_compute_expert_tokens(ordered, E)
    assert ends.cpu().tolist() == [int((chosen <= expert).sum()) for expert in range(E)]
    (product,) = torch_npu.npu_grouped_matmul(
        [expanded], [weight.npu()], group_list=ends.long(), split_item=2, group_type=0
    )
    out = torch_npu.npu_moe_finalize_routing(
        product, x.npu(), None, bias.npu(), scales.npu(), went, chosen.npu(), drop_pad_mode=0
    )
    wide = x.double()
    expected = torch.stack(
        [
            wide[row]
            + sum(
                scales[row, choice] * (wide[row] @ weight[expert].double() + bias[expert])
                for choice, expert in enumerate(chosen[row].tolist())
            )
            for row in range(N)
        ]
    )
    close(out, expected, 1e-5, "layer")


@pytest.mark.parametrize("num_out", [None, 0, 9, -2])
def test_permute_and_unpermute(torch_npu: ModuleType, num_out: int | None) -> None:
    chosen = experts()
    order = chosen.flatten().argsort(stable=True)
    kept = order[: {None: N * K, 0: N * K, 9: 9, -2: N * K - 2}[num_out]]

    def ours(tokens: Tensor, probs: Tensor) -> Tensor:
        permuted, went = torch_npu.npu_moe_token_permute(tokens, chosen.npu(), num_out)
        return torch_npu.npu_moe_token_unpermute(permuted * permuted, went, probs)

    def plain(tokens: Tensor, probs: Tensor) -> Tensor:
        squares = torch.zeros(N * K, H, dtype=tokens.dtype).index_copy(0, kept, tokens[kept // K].square())
        return (squares.view(N, K, H) * probs[..., None]).sum(1)

    torch.manual_seed(0)
    check(ours, plain, torch.randn(N, H), torch.rand(N, K))


def test_unpermute_without_weights(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    went = torch.randperm(N)
    check(
        lambda rows: torch_npu.npu_moe_token_unpermute(rows, went.npu()),
        lambda rows: rows[went],
        torch.randn(N, H),
    )


def test_gating_may_choose_before_the_softmax(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    x = torch.randn(N, E)
    chosen, experts = x.double().topk(K)
    first, who, softmax = torch_npu.npu_moe_gating_top_k_softmax_v2(
        x.npu(), k=K, renorm=1, output_softmax=True
    )
    close(first, chosen.softmax(-1), 1e-6, "softmax of the chosen")
    assert who.cpu().tolist() == experts.tolist()
    assert softmax.numel() == 0  # of all of them it is shown only with renorm=0
    values, _, softmax = torch_npu.npu_moe_gating_top_k_softmax_v2(x.npu(), k=K, output_softmax=True)
    close(values, x.double().softmax(-1).topk(K)[0], 1e-6, "the largest probabilities")
    close(softmax, x.double().softmax(-1), 1e-6, "softmax of all")


def test_gating_by_sigmoid_chooses_with_the_bias_and_weighs_without(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(N, E), torch.tensor([0.0, 3.0, 0.0, 0.0])
    y, who, norm = torch_npu.npu_moe_gating_top_k(
        x.npu(), K, bias=bias.npu(), norm_type=1, out_flag=True, routed_scaling_factor=2.5
    )
    assert who.cpu()[:, 0].tolist() == [1] * N
    scores = x.double().sigmoid()
    close(norm, scores, 1e-6, "sigmoid")
    chosen = scores.gather(1, who.cpu().long())
    close(y, 2.5 * chosen / chosen.sum(-1, keepdim=True), 1e-6, "weights")
    y, who, _ = torch_npu.npu_moe_gating_top_k(x.npu(), K)
    close(y, x.double().softmax(-1).topk(K)[0], 1e-6, "softmax, not shared out")


@pytest.mark.parametrize(
    ("shape", "more", "message"),
    [
        ((N, E), {"k": E + 1}, "k=5 of 4"),
        ((N, 2), {"k": 1}, "more than 2"),
        ((N, 2049), {"k": 1}, "2048 or fewer"),
        ((N, E), {"k": 1, "norm_type": 2}, "norm_type"),
        ((0, E), {"k": 1}, "none of them 0"),
    ],
)
def test_gates_that_the_chip_does_not_take(
    torch_npu: ModuleType, shape: tuple[int, int], more: dict[str, int], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch_npu.npu_moe_gating_top_k(torch.zeros(shape, device="npu"), **more)
