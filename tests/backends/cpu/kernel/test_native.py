"""What the cases of ``portable.kernel.conformance`` do not ask of the kernels in C++."""

import pytest
import torch

from backends.cpu.kernel import activation, decode, norm, packed, sampling
from backends.cpu.kernel.library import load_native
from backends.cpu.processor import instruction_set
from portable.core.errors import BackendUnavailable
from portable.kernel.reference import decode as decode_reference
from portable.kernel.reference import quant


def test_rows_do_not_depend_on_their_company():
    x, weight = torch.randn(50, 192), torch.randn(192)
    assert torch.equal(norm.rms_norm(x, weight)[7:9], norm.rms_norm(x[7:9], weight))
    assert torch.equal(activation.swiglu(x, -x)[7:9], activation.swiglu(x[7:9], -x[7:9]))


def test_bits_do_not_depend_on_the_number_of_threads():
    x, weight = torch.randn(3000, 64, requires_grad=True), torch.randn(64, requires_grad=True)
    before = torch.get_num_threads()
    gradients = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            gradients.append(torch.autograd.grad(norm.rms_norm(x, weight).square().sum(), (x, weight)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("entry", [-1, 99])
def test_a_page_that_does_not_exist_is_not_read(entry):
    q, (k, v) = torch.randn(1, 2, 4), torch.randn(2, 3, 2, 1, 4)
    table, lengths = torch.tensor([[entry, 1]]), torch.tensor([1000])
    ours = decode.paged_attention(q, k, v, table, lengths)
    torch.testing.assert_close(ours, decode_reference.paged_attention(q, k, v, table, lengths))


@pytest.mark.parametrize("bits", range(2, 9))
def test_both_ways_to_multiply_packed_weights_agree(bits):
    codes, scales, zeros = quant.quantize_packed(torch.randn(40, 64), bits, 32)
    x = torch.randn(packed.MAX_FUSED_ROWS + 1, 64)
    numbers = {"bits": bits, "group_size": 32}
    tiled = packed.packed_matmul(x, codes, scales, zeros, **numbers)
    fused = packed.packed_matmul(x[:-1], codes, scales, zeros, **numbers)
    torch.testing.assert_close(tiled[:-1], fused)


def test_nan_among_logits_is_kept_and_breaks_nothing():
    logits = torch.randn(1, 3000)
    logits[0, 5] = torch.nan
    out = sampling.top_k_top_p(logits, torch.tensor([2]), torch.tensor([1.0]))
    assert out[0, 5].isnan()
    assert out.isfinite().sum() == 1


def test_a_compiler_that_fails_is_answered_with_what_goes_on_without(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"kernel\.deny=\[native\]"):
        load_native.__wrapped__()


def test_processors_with_other_instructions_have_other_names(tmp_path):
    names = []
    for flags in ("fma avx2", "fma avx2 avx512f"):
        info = tmp_path / "cpuinfo"
        info.write_text(f"processor : 0\nflags : {flags}\n")
        names.append(instruction_set(info))
    assert names[0] != names[1]
