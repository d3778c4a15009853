"""What conformance does not ask: how the row's operator looks to those who count and keep."""

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from backends.cpu.kernel.linear import linear
from portable.kernel.reference.linear import linear as reference
from portable.parallel.memory.work import is_dear, work


def test_its_products_are_counted_as_those_of_torch():
    x, weight = torch.ones(2, 5, 8, requires_grad=True), torch.ones(3, 8, requires_grad=True)
    counts = []
    for compute in (linear, reference):
        with FlopCounterMode(display=False) as counter:
            compute(x, weight).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] == 3 * 2 * 10 * 8 * 3


def test_selective_recomputation_keeps_its_products():
    op = torch.ops.mkldnn._linear_pointwise.default
    x, weight = torch.ones(256, 512), torch.ones(512, 512)
    assert is_dear(op)
    assert work(op, (x, weight), {}, x) >= 2 * 256 * 512 * 512
    assert create_selective_checkpoint_contexts([op])


def test_it_is_traced_whole():
    x, weight = torch.randn(4, 8), torch.randn(3, 8, requires_grad=True)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    (by_hand,) = torch.autograd.grad(linear(x, weight).square().sum(), weight)
    (traced,) = torch.autograd.grad(compiled(x, weight).square().sum(), weight)
    torch.testing.assert_close(traced, by_hand)
