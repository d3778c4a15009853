import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from portable.kernel.composed import cross_entropy as composed
from portable.kernel.reference import cross_entropy as reference
from portable.kernel.reference import log_prob


def alone(x, op):
    return x


ROWS = {
    "cross_entropy": (composed.cross_entropy, reference.cross_entropy, {"z_loss": 0.01}),
    "gather_log_probs": (composed.gather_log_probs, log_prob.gather_log_probs, {"temperature": 0.7}),
    "vocab_parallel": (
        composed.vocab_parallel_cross_entropy,
        reference.vocab_parallel_cross_entropy,
        {"vocab_start": 5, "reduce": alone, "z_loss": 0.01},
    ),
}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def inputs(dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(9, 20, generator=stream)).to(dtype)
    targets = torch.randint(5, 20, (9,), generator=stream)
    targets[3], logits[3] = -100, torch.nan
    return logits, targets


def peak_bytes(function):
    """Return the most memory that ``function`` holds at a time, with what operators allocate inside."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("chunk_rows", [1, 2, 4, 100])
def test_chunks_change_nothing(row, chunk_rows, monkeypatch):
    monkeypatch.setattr(composed, "CHUNK_VALUES", 20 * chunk_rows + 7)
    results = []
    for kernel in row[:2]:
        logits, targets = inputs()
        out = kernel(logits.requires_grad_(), targets, **row[2])
        (grad,) = torch.autograd.grad(out, logits, torch.linspace(-1, 2, 9).double())
        results.append((out, grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
        assert ours[3].eq(0).all()


def test_no_more_than_a_chunk_is_ever_in_float32(row, monkeypatch):
    rows, vocab, chunk_rows = 64, 4096, 8
    monkeypatch.setattr(composed, "CHUNK_VALUES", chunk_rows * vocab)
    logits = torch.zeros(rows, vocab, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.full((rows,), 9)
    grad, chunk, vectors = 2 * logits.numel(), 4 * chunk_rows * vocab, 100 * rows
    peaks = [
        peak_bytes(lambda kernel=kernel: kernel(logits, targets, **row[2]).sum().backward())
        for kernel in row[:2]
    ]
    assert grad + chunk <= peaks[0] < grad + chunk + vectors
    assert peaks[1] > grad + rows * vocab * 4  # the reference is caught


def test_logits_are_kept_as_they_are_and_nothing_of_their_size_beside_them(row):
    logits, targets = inputs(torch.bfloat16)
    logits.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        row[0](logits, targets, **row[2])
    large = [x for x in kept if x.numel() >= logits.numel()]
    assert [x.data_ptr() for x in large] == [logits.data_ptr()]


def test_second_derivatives_are_refused_rather_than_wrong(row):
    logits, targets = inputs()
    logits.requires_grad_()
    loss = row[0](logits, targets, **row[2]).square().sum()
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.nansum().backward()
