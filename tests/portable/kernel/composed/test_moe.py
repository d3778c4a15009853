import pytest
import torch

from portable.kernel.composed import moe as composed
from portable.kernel.reference import moe as reference


def numbers(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


def compare(name, leaves, *rest):
    results = []
    for module in (composed, reference):
        out = getattr(module, name)(*leaves, *rest)
        outs = out if isinstance(out, tuple) else (out,)
        needed = [x for x in leaves if x.requires_grad]
        results.append((*outs, *torch.autograd.grad(outs[0].square().sum(), needed)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.fixture(params=[1, 2, 100])
def chunk_tokens(request, monkeypatch):
    monkeypatch.setattr(composed, "CHUNK_VALUES", 3 * 4 * request.param + 1)


@pytest.mark.usefixtures("chunk_tokens")
@pytest.mark.parametrize("tokens", [7, 1, 0])
def test_chunks_change_nothing(tokens):
    experts = torch.randint(0, 5, (tokens, 3), generator=torch.Generator().manual_seed(0))
    compare("moe_permute", [numbers(tokens, 4)], experts, 5)
    _, slots, _ = reference.moe_permute(numbers(tokens, 4), experts, 5)
    for needs_y, needs_weights in ((True, True), (True, False), (False, True)):
        weights = numbers(tokens, 3).detach().requires_grad_(needs_weights)
        rows = numbers(3 * tokens, 4).detach().requires_grad_(needs_y)
        results = []
        for module in (composed, reference):
            out = module.moe_unpermute(rows, slots, weights)
            leaves = [x for x in (rows, weights) if x.requires_grad]
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("counts", [(3, 0, 4), (0, 0, 7), (0, 0, 0)])
@pytest.mark.parametrize("frozen", [None, 0, 1])
def test_groups_of_any_size_and_frozen_inputs(counts, frozen):
    leaves = [numbers(sum(counts), 4), numbers(3, 4, 2)]
    if frozen is not None:
        leaves[frozen] = leaves[frozen].detach()
    compare("grouped_matmul", leaves, torch.tensor(counts))


def test_a_transposed_weight_needs_no_copy_of_its_own():
    weight = numbers(3, 2, 4).transpose(1, 2)
    compare("grouped_matmul", [numbers(5, 4), weight], torch.tensor([2, 0, 3]))


@pytest.mark.parametrize("needs_weights", [True, False])
def test_rows_are_kept_for_the_gradients_of_weights_only(needs_weights):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)), lambda x: x):
        slots = torch.arange(6).view(3, 2)
        composed.moe_unpermute(numbers(6, 4), slots, numbers(3, 2).detach().requires_grad_(needs_weights))
    assert ((6, 4) in kept) == needs_weights
