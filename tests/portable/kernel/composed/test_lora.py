import itertools

import pytest
import torch

from portable.kernel.composed.lora import lora_linear
from portable.kernel.reference import lora as reference


def inputs(needed=(True,) * 5):
    stream = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 8), (5, 8), (3, 8), (5, 3), (5,))
    drawn = [torch.randn(shape, generator=stream, dtype=torch.float64) for shape in shapes]
    return [x.requires_grad_(need) for x, need in zip(drawn, needed, strict=True)]


@pytest.mark.parametrize("needed", list(itertools.product((True, False), repeat=5)))
def test_any_of_the_inputs_may_be_frozen(needed):
    tensors = inputs(needed)
    leaves = [x for x in tensors if x.requires_grad]
    results = []
    for kernel in (lora_linear, reference.lora_linear):
        out = kernel(*tensors[:4], scale=0.5, bias_O=tensors[4])
        grads = torch.autograd.grad(out.square().sum(), leaves) if leaves else ()
        results.append((out, *grads))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_only_inputs_and_one_tensor_of_the_ranks_width_are_kept():
    tensors = inputs((True, False, True, True, False))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        lora_linear(*tensors[:4], scale=0.5)
    own = {x.data_ptr() for x in tensors}
    assert [tuple(x.shape) for x in kept if x.data_ptr() not in own] == [(6, 3)]
