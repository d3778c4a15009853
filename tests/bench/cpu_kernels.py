"""Measure the CPU's kernel rows against torch's ways to compute the same: the figures of docs/benchmarks.md.

    OMP_NUM_THREADS=1 python tests/bench/cpu_kernels.py

Time: thread time of one thread, the ways taking turns, minimum and median. Memory: each way in a process of
its own, which resets the kernel's high-water mark of resident memory (VmHWM) once its inputs exist and a tiny
problem has warmed everything, and reports how far the mark rose in a forward and backward pass.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from backends.cpu.kernel import attention, cross_entropy, decode, log_prob, packed
from portable.kernel.reference import decode as decode_reference
from portable.kernel.reference import log_prob as log_prob_reference
from portable.kernel.reference import quant as quant_reference

Ways = dict[str, Callable[[], object]]
IGNORED = -100
PAGE = 16


def head_ways(tokens: int, hidden: int, vocab: int) -> Ways:
    """Head and loss, forward and backward, every second row ignored; ``eager`` is the yardstick."""
    torch.manual_seed(0)
    x = torch.randn(tokens, hidden, requires_grad=True)
    weight = (torch.randn(vocab, hidden) * 0.02).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,))
    targets[::2] = IGNORED

    def eager() -> object:
        loss = F.cross_entropy(F.linear(x, weight), targets, ignore_index=IGNORED, reduction="sum")
        return torch.autograd.grad(loss, (x, weight))

    def by(kernel: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(-kernel(x, weight, targets).sum(), (x, weight))

    return {
        "eager": eager,
        "native": by(cross_entropy.token_log_probs),
        "kept": by(log_prob.token_log_probs),
        "reference": by(log_prob_reference.token_log_probs),
    }


def packed_ways(rows: int, size: int, bits: int) -> Ways:
    x, weight = torch.randn(rows, size), torch.randn(size, size) * 0.02
    codes, scales, zeros = quant_reference.quantize_packed(weight, bits, 64)
    numbers = {"bits": bits, "group_size": 64}

    def dequantise() -> Tensor:
        return x @ quant_reference.dequantize_packed(codes, scales, zeros, bits, 64, torch.float32).T

    return {
        "dequantise, matmul": dequantise,
        "native": lambda: packed.packed_matmul(x, codes, scales, zeros, **numbers),
        "float32 weight": lambda: x @ weight.T,
    }


def paged_ways(rows: int, positions: int, heads: int, kv_heads: int, head_dim: int) -> Ways:
    q = torch.randn(rows, heads, head_dim)
    blocks = positions // PAGE
    k, v = torch.randn(2, rows * blocks, PAGE, kv_heads, head_dim)
    table = torch.randperm(rows * blocks).view(rows, blocks)
    lengths = torch.randint(positions // 2, positions + 1, (rows,))

    def gather() -> Tensor:
        rows_of = [pages[table].flatten(1, 2) for pages in (k, v)]
        return attention.decode_attention(q, *rows_of, lengths)

    return {
        "gather, sdpa": gather,
        "native": lambda: decode.paged_attention(q, k, v, table, lengths),
        "reference": lambda: decode_reference.paged_attention(q, k, v, table, lengths),
    }


def time_ways(title: str, ways: Ways, rounds: int) -> None:
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start, calls = time.thread_time(), 0
            while time.thread_time() - start < 0.02:
                way()
                calls += 1
            samples[name].append((time.thread_time() - start) / calls)
    first = next(iter(ways))
    for name, values in samples.items():
        ratios = [own / base for own, base in zip(values, samples[first], strict=True)]
        print(
            f"| {title} | {name} | {1e3 * min(values):.3f} | {1e3 * statistics.median(values):.3f} "
            f"| {min(values) / min(samples[first]):.2f} | {statistics.median(ratios):.2f} |",
            flush=True,
        )


def high_water_mark() -> int:
    """Bytes of resident memory at most since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("the system keeps no high-water mark of resident memory")


def measure_peak(way: str, shape: list[int]) -> None:
    """Print how many bytes the mark rises over the inputs; runs in a process of its own."""
    head_ways(8, 16, 32)[way]()
    ways = head_ways(*shape)
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water_mark()
    ways[way]()
    print(json.dumps(high_water_mark() - before))


def print_peaks(shape: list[int]) -> None:
    peaks: dict[str, int] = {}
    for way in head_ways(8, 16, 32):
        command = [sys.executable, __file__, "--peak", way, "--shape", *map(str, shape)]
        peaks[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    title = " x ".join(map(str, shape))
    for way, peak in peaks.items():
        print(f"| {title} | {way} | {peak / 2**20:.0f} | {peak / peaks['eager']:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", default="")
    parser.add_argument("--shape", type=int, nargs=3, default=[1024, 512, 32000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        measure_peak(options.peak, options.shape)
        return
    shapes = ([1024, 512, 32000], [2048, 512, 32000], [4096, 512, 32000], [1024, 1024, 32000])
    print("| tokens x hidden x vocabulary | way | peak, MiB | / eager |\n| --- | --- | ---: | ---: |")
    for shape in shapes:
        print_peaks(shape)
    print("\n| problem | way | min, ms | median, ms | ratio of minima | median of ratios |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for shape in (*shapes[:2], [2048, 192, 4096]):
        title = f"head and loss, {' x '.join(map(str, shape))}"
        time_ways(title, head_ways(*shape), max(3, options.rounds // 2))
    with torch.no_grad():
        for bits in (2, 3, 4, 8):
            time_ways(f"packed, {bits} bits, 1 x 2048 x 2048", packed_ways(1, 2048, bits), options.rounds)
        for rows in (8, 64, 512):
            time_ways(f"packed, 4 bits, {rows} x 2048 x 2048", packed_ways(rows, 2048, 4), options.rounds)
        for shape in ((1, 4096, 16, 4, 128), (16, 256, 8, 4, 32), (8, 2048, 16, 4, 128)):
            title = f"paged, {shape[0]} rows of up to {shape[1]}, {shape[2]}/{shape[3]} heads of {shape[4]}"
            time_ways(title, paged_ways(*shape), options.rounds)


if __name__ == "__main__":
    main()
