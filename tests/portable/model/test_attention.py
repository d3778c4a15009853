import pytest
import torch

from portable.kernel.config import KernelConfig
from portable.kernel.registry import KernelSet
from portable.model.init import new_model

POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]])
BOUNDS = torch.tensor([0, 5, 8, 12], dtype=torch.int32)
MIDDLE = slice(5, 8)


@pytest.fixture(params=["reference", "sdpa"])
def model(request, make_config):
    row = KernelSet("cpu", "fp32", KernelConfig(rows={"attention": request.param}))
    return new_model(make_config(), row, seed=1)


@pytest.fixture
def ids():
    return torch.randint(0, 270, (1, 12), generator=torch.Generator().manual_seed(0))


def log_probs(model, ids, cu_seqlens):
    return model(ids, POSITIONS, cu_seqlens, targets=ids.roll(-1))[0]


def test_other_segments_move_neither_output_nor_gradient(model, ids):
    changed = ids.clone()
    changed[0, :5] = (changed[0, :5] + 17) % 270
    changed[0, 8:] = (changed[0, 8:] + 31) % 270
    results = []
    for packed in (ids, changed):
        model.zero_grad()
        targets = ids.roll(-1)  # the same targets: only what the middle segment can see may differ
        out = model(packed, POSITIONS, BOUNDS, targets=targets)[0, MIDDLE]
        out.sum().backward()
        results.append((out.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-6)
    for name, grad in results[0][1].items():
        torch.testing.assert_close(grad, results[1][1][name], rtol=0, atol=2e-5, msg=name)


def test_packed_equals_separate_rows_with_gradients(model, ids):
    model.zero_grad()
    packed = log_probs(model, ids, BOUNDS)
    packed.sum().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    targets = ids.roll(-1)
    parts = []
    for start, end in ((0, 5), (5, 8), (8, 12)):
        part = slice(start, end)
        parts.append(model(ids[:, part], POSITIONS[:, part], targets=targets[:, part])[0])
    torch.cat(parts).sum().backward()
    torch.testing.assert_close(packed, torch.cat(parts), rtol=0, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-4, msg=name)


def test_naive_concatenation_differs_even_with_restarted_positions(model, ids):
    # Segments are never guessed from positions: without bounds the row is one segment.
    with torch.no_grad():
        packed, naive = log_probs(model, ids, BOUNDS), log_probs(model, ids, None)
    assert (packed[:5] - naive[:5]).abs().max() < 1e-5
    assert (packed[MIDDLE] - naive[MIDDLE]).abs().max() > 1e-2


def test_future_tokens_are_not_seen(model, ids):
    later = ids.clone()
    later[0, 7:] = (later[0, 7:] + 5) % 270
    with torch.no_grad():
        first, second = model(ids, POSITIONS, None), model(later, POSITIONS, None)
    torch.testing.assert_close(first[:, :7], second[:, :7], rtol=0, atol=1e-6)
    assert (first[:, 7:] - second[:, 7:]).abs().max() > 1e-2


def test_bounds_run_over_the_flattened_rows(model, ids):
    # Two rows of six; the middle segment of the flattened tokens crosses the row's end.
    with torch.no_grad():
        flat = model(ids, POSITIONS, BOUNDS)
        rows = model(ids.view(2, 6), POSITIONS.view(2, 6), BOUNDS)
    torch.testing.assert_close(rows.reshape(1, 12, -1), flat, rtol=0, atol=1e-5)


def test_without_qk_norm_there_are_no_head_norms(make_config, kernels):
    names = dict(new_model(make_config(qk_norm=False), kernels, 0).named_parameters())
    assert not [name for name in names if "q_norm" in name or "k_norm" in name]
