import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from portable.kernel.composed import quant as composed
from portable.kernel.reference import quant as reference


class Largest(TorchDispatchMode):
    """Notes how many values the largest result of an operation has."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def packed(bits, num_out=40, num_in=96):
    stream = torch.Generator().manual_seed(0)
    parts = reference.quantize_packed(torch.randn(num_out, num_in, generator=stream), bits, 48)
    return torch.randn(5, num_in, generator=stream, dtype=torch.float64, requires_grad=True), *parts


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_chunks_change_nothing(bits, chunk_rows, monkeypatch):
    monkeypatch.setattr(composed, "CHUNK_VALUES", 96 * chunk_rows)
    x, *parts = packed(bits)
    results = []
    for module in (composed, reference):
        out = module.packed_matmul(x, *parts, bits=bits, group_size=48)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("bits", [3, 4])
def test_the_whole_matrix_never_exists(bits, monkeypatch):
    monkeypatch.setattr(composed, "CHUNK_VALUES", 96 * 4)
    x, *parts = packed(bits)
    with Largest() as seen:
        composed.packed_matmul(x, *parts, bits=bits, group_size=48).sum().backward()
    assert seen.numel < 3 * 96 * 5  # a chunk and x, not the 40 rows
    with Largest() as seen:
        reference.packed_matmul(x, *parts, bits=bits, group_size=48).sum().backward()
    assert seen.numel >= 96 * 40  # the reference is caught


def test_only_the_packed_matrix_is_kept():
    x, *parts = packed(4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        composed.packed_matmul(x, *parts, bits=4, group_size=48)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in parts}


@pytest.mark.parametrize(
    ("shape", "block_size"), [((6, 10), 16), ((7,), 4), ((), 8), ((0, 4), 8), ((4, 16), 64)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_is_the_reference_to_the_bit(shape, block_size, dtype):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    codes, absmax = reference.quantize_nf4(weight, block_size)
    settings = {"shape": shape, "block_size": block_size, "dtype": dtype}
    ours, expected = (module.nf4_dequantize(codes, absmax, **settings) for module in (composed, reference))
    assert torch.equal(ours, expected)
    assert ours.dtype == dtype


def test_nf4_is_differentiable_in_the_maxima():
    codes, absmax = reference.quantize_nf4(torch.randn(6, generator=torch.Generator().manual_seed(0)), 4)
    settings = {"shape": (6,), "block_size": 4, "dtype": torch.float32}
    absmax.requires_grad_()
    grads = [
        torch.autograd.grad(module.nf4_dequantize(codes, absmax, **settings).sum(), absmax)[0]
        for module in (composed, reference)
    ]
    torch.testing.assert_close(*grads)
