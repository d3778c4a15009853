"""Calls of every Triton row at the shapes of real models, for compilers: what comes of them is not looked at.

Widths of Llama 3 8B and 405B, heads of 64, 128 and 256, and sizes of 1, of which Triton makes constants.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backends.triton.kernels import entries
from portable.core.registry import load_target
from portable.kernel.reference.quant import quantize_int8, quantize_nf4, quantize_packed

Call = tuple[str, Callable[[], None]]
_WIDTHS = (1, 4096, 16384)
_HEAD_DIMS = (64, 128, 256)
_SPANS: dict[str, dict[str, Any]] = {  # Any: arguments of attention
    "causal": {},
    "all_to_all": {"causal": False},
    "window": {"window": 128},
    "window_both_sides": {"window": 128, "causal": False, "align": "start"},
}


def calls(dtype: torch.dtype) -> Iterator[Call]:
    """Yield the name and the doing of every call; gradients are asked for where the row gives them."""
    rows = {row.spec.id: row for row in entries("cuda")}
    for op, name, args, rest in _arguments(dtype):
        kernel = load_target(rows[op].target)
        yield f"{op}/{name}", partial(_run, kernel, rows[op].differentiable, args, rest)


def _run(kernel: Callable[..., Any], differentiable: bool, args: Sequence[Any], rest: dict[str, Any]) -> None:
    if not differentiable:
        kernel(*args, **rest)
        return
    args = [x.requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
    result = kernel(*args, **rest)
    outs = [out for out in (result if isinstance(result, tuple) else (result,)) if out.requires_grad]
    torch.autograd.backward(outs, [torch.ones_like(out) for out in outs])


def _arguments(dtype: torch.dtype) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    def draw(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=dtype)

    yield from _of_rows(draw)
    yield from _of_heads(draw)
    yield from _of_vocabulary(draw)
    yield from _of_matrices(draw, dtype)


def _of_rows(draw: Callable[..., Tensor]) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    for width in _WIDTHS:
        x, weight = draw(4, width), torch.ones(width)
        yield "rms_norm", f"{width}", [x, weight], {}
        yield "rms_norm__one_plus_w", f"{width}", [x, weight], {}
        yield "rms_norm__add", f"{width}", [x, draw(4, width), weight], {}
        yield "layer_norm", f"{width}", [x, weight], {}
        yield "layer_norm", f"{width}_bias", [x, weight, torch.ones(width)], {}
    for shape in ((4, 14336), (1, 1)):
        for op in ("swiglu", "geglu__erf", "geglu__tanh"):
            yield op, f"{shape[1]}", [draw(*shape), draw(*shape)], {}
        state = ([torch.ones(shape)] for _ in range(2))
        numbers = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
        yield "adamw", f"{shape[1]}", [[draw(*shape)], [draw(*shape)], *state], {"step": 1, **numbers}


def _of_heads(draw: Callable[..., Tensor]) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    for head_dim, rotary_dim in ((128, 128), (128, 64), (576, 64), (2, 2)):
        tables = [torch.ones(1, 2, rotary_dim) for _ in range(2)]
        for op in ("rope__half", "rope__interleave"):
            yield (
                op,
                f"{head_dim}_{rotary_dim}",
                [draw(1, 2, 32, head_dim), draw(1, 2, 8, head_dim), *tables],
                {},
            )
    for head_dim in _HEAD_DIMS:
        # The kernels of both rows are the same.
        qkv = [draw(2, 70, heads, head_dim) for heads in (8, 2, 2)]
        yield "attention__with_lse", f"{head_dim}", qkv, {}
        q, lengths = draw(2, 32, head_dim), torch.tensor([70, 3])
        caches, pages = ([draw(*shape, 8, head_dim) for _ in range(2)] for shape in ((2, 4096), (64, 16)))
        table = torch.zeros(2, 32, dtype=torch.int64)
        for name, rest in (("plain", {}), ("window_sink", {"window": 100, "sink_N": draw(32)})):
            yield "decode_attention", f"{head_dim}_{name}", [q, *caches, lengths], rest
            yield "paged_attention", f"{head_dim}_{name}", [q, *pages, table, lengths], rest
    for name, span in _SPANS.items():
        qkv = [draw(2, 70, heads, 128) for heads in (8, 2, 2)]
        yield "attention", name, qkv, {**span, "sink_N": draw(8)}
    yield "attention", "one", [draw(1, 1, 1, 64) for _ in range(3)], {}


def _of_vocabulary(draw: Callable[..., Tensor]) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    for rows, size in ((4, 128_256), (1, 1)):
        targets = torch.zeros(rows, dtype=torch.int64)
        yield "cross_entropy", f"{size}", [draw(rows, size), targets], {"z_loss": 1e-4}
        yield "gather_log_probs", f"{size}", [draw(rows, size), targets], {"temperature": 0.7}
        yield "token_log_probs", f"{size}", [draw(rows, 16), draw(size, 16), targets], {}
        shard: dict[str, Any] = {"vocab_start": size, "reduce": lambda x, _: x}  # Any: see the reference
        yield "cross_entropy__vocab_parallel", f"{size}", [draw(rows, size), targets], shard


def _of_matrices(
    draw: Callable[..., Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, str, list[Any], dict[str, Any]]]:
    for bits in (3, 4, 8):
        packed = quantize_packed(torch.randn(64, 256), bits, 64)
        yield "packed_matmul", f"{bits}", [draw(4, 256), *packed], {"bits": bits, "group_size": 64}
    for rows, width in ((64, 2048), (1, 1)):
        counts = torch.tensor([rows, 0])
        yield "grouped_matmul", f"{width}", [draw(rows, width), draw(2, width, width), counts], {}
    for width in _WIDTHS:
        yield "int8_matmul", f"{width}", [draw(4, width), *quantize_int8(torch.randn(64, width))], {}
    shape: dict[str, Any] = {"shape": (64, 64), "block_size": 64, "dtype": dtype}  # Any: see the reference
    yield "nf4_dequantize", "64", [*quantize_nf4(torch.randn(64, 64), 64)], shape
