import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from portable.core.errors import ShapeError
from portable.kernel.reference.cross_entropy import cross_entropy, vocab_parallel_cross_entropy


def inputs(rows=7, vocab=11, dtype=torch.float64):
    stream = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, vocab, generator=stream, dtype=dtype)
    return logits.requires_grad_(), torch.randint(0, vocab, (rows,), generator=stream)


def with_grads(function, logits, *args, **kwargs):
    losses = function(logits, *args, **kwargs)
    weights = torch.linspace(-1, 1, len(losses), dtype=losses.dtype)
    return losses, *torch.autograd.grad((losses * weights).nansum(), logits)


def alone(x, op):
    return x


class Ranks:
    """As many threads as ranks, which meet in ``reduce``."""

    def __init__(self, count):
        self.slots = [None] * count
        self.barrier = threading.Barrier(count)
        self.ops = [[] for _ in range(count)]

    def reduce_of(self, rank):
        def reduce(x, op):
            self.ops[rank].append((op, tuple(x.shape)))
            self.slots[rank] = x
            self.barrier.wait()
            stacked = torch.stack(self.slots)
            self.barrier.wait()
            return stacked.amax(0) if op == "max" else stacked.sum(0)

        return reduce

    def run(self, function):
        def work(rank):
            try:
                return function(rank, self.reduce_of(rank))
            except BaseException:
                self.barrier.abort()  # the others would wait for ever
                raise

        with ThreadPoolExecutor(len(self.slots)) as pool:
            return list(pool.map(work, range(len(self.slots))))


def test_values_and_gradients_are_those_of_torch():
    logits, targets = inputs()
    targets[[1, 4]] = -100
    ours = with_grads(cross_entropy, logits, targets)
    for got, expected in zip(
        ours, with_grads(F.cross_entropy, logits, targets, reduction="none"), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_z_loss_by_hand():
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    lse = torch.log(1 + torch.tensor(1.0).double().exp())
    torch.testing.assert_close(
        cross_entropy(logits, torch.tensor([1]), z_loss=0.1), (lse - 1 + 0.1 * lse**2)[None]
    )


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_gradcheck(z_loss):
    logits, targets = inputs(rows=4, vocab=5)
    targets[2] = -1
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets, z_loss=z_loss), logits)


@pytest.mark.parametrize(
    "function",
    [
        cross_entropy,
        lambda *a, **k: vocab_parallel_cross_entropy(*a, vocab_start=0, reduce=alone, **k),
    ],
)
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_an_ignored_row_costs_nothing_whatever_its_logits(function, z_loss):
    logits, targets = inputs()
    bad = logits.detach().clone()
    bad[0], bad[1], bad[2] = torch.nan, -torch.inf, torch.inf
    targets[:3] = torch.tensor([-1, -100, -7])
    losses, grad = with_grads(function, bad.requires_grad_(), targets, z_loss=z_loss)
    assert torch.equal(losses[:3], torch.zeros(3, dtype=losses.dtype))
    assert torch.equal(grad[:3], torch.zeros_like(grad[:3]))
    torch.testing.assert_close(losses[3:], cross_entropy(logits[3:], targets[3:], z_loss=z_loss))


def test_infinite_logits_do_as_in_torch():
    logits, targets = inputs()
    logits = logits.detach()
    logits[0] = -torch.inf  # nothing is possible: nan
    logits[1, targets[1]] = -torch.inf  # the target is impossible: inf
    logits[2, (targets[2] + 1) % 11] = -torch.inf  # another token is: finite
    losses = cross_entropy(logits, targets)
    torch.testing.assert_close(
        losses, F.cross_entropy(logits, targets, reduction="none"), equal_nan=True, rtol=1e-7, atol=0
    )
    assert losses[0].isnan()
    assert losses[1].isinf()
    assert losses[2:].isfinite().all()


def test_16_bits_are_added_up_in_float32():
    logits, targets = inputs(vocab=1000, dtype=torch.bfloat16)
    losses, grad = with_grads(cross_entropy, logits, targets)
    assert (losses.dtype, grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(losses, cross_entropy(logits.float(), targets))


def test_no_rows():
    logits, targets = inputs(rows=0)
    losses, grad = with_grads(cross_entropy, logits, targets)
    assert losses.shape == (0,)
    assert grad.shape == (0, 11)


@pytest.mark.parametrize(
    "bounds", [[0, 11], [0, 4, 11], [0, 0, 5, 11, 11]]
)  # the last: two ranks own nothing
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_ranks_together_give_what_one_gives(bounds, z_loss):
    logits, targets = inputs()
    targets[3] = -100
    ranks = Ranks(len(bounds) - 1)

    def work(rank, reduce):
        part = logits.detach()[:, bounds[rank] : bounds[rank + 1]].requires_grad_()
        settings = {"vocab_start": bounds[rank], "reduce": reduce, "z_loss": z_loss}
        return with_grads(vocab_parallel_cross_entropy, part, targets, **settings)

    results = ranks.run(work)
    losses, grad = with_grads(cross_entropy, logits, targets, z_loss=z_loss)
    for own_losses, _ in results:
        torch.testing.assert_close(own_losses, losses)
    torch.testing.assert_close(torch.cat([own for _, own in results], 1), grad)
    # Two reductions in all: the backward pass, which has run, needs none.
    assert ranks.ops == [[("max", (7,)), ("sum", (2, 7))]] * len(results)


@pytest.mark.parametrize("targets", [torch.zeros(6).long(), torch.zeros(7, 1).long()])
def test_shapes_are_checked(targets):
    logits, _ = inputs()
    with pytest.raises(ShapeError, match=r"cross_entropy: logits \(7, 11\) .* \(N, V\) and \(N,\)"):
        cross_entropy(logits, targets)
    with pytest.raises(ShapeError, match="vocab_parallel_cross_entropy"):
        vocab_parallel_cross_entropy(logits, targets, vocab_start=0, reduce=alone)
