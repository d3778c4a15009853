"""Compare the rows in plain torch with the reference. Run: python tests/bench/composed_kernels.py [fp32|bf16]

Thread time on one thread, the best of several, the two taking turns; memory is the largest sum of tensors
alive beyond the inputs. Both are of forward and backward together, where there is a backward.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from portable.core.registry import load_target
from portable.kernel.composed.rows import ENTRIES
from portable.kernel.reference.moe import moe_gate_softmax, moe_permute
from portable.kernel.reference.quant import quantize_nf4, quantize_packed

N, V, D, F, R, E, K = 2048, 32000, 1024, 2048, 16, 16, 4


def run(kernel: Callable[..., Any], inputs: Sequence[Any], settings: dict[str, Any]) -> None:
    out = kernel(*inputs, **settings)
    out = out[0] if isinstance(out, tuple) else out
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    if leaves:
        torch.autograd.grad(out, leaves, torch.ones_like(out))


def peak_bytes(kernel: Callable[..., Any], inputs: Sequence[Any], settings: dict[str, Any]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(kernel, inputs, settings)
    results = profiler.profiler.kineto_results  # the only place where single allocations can be read
    events = sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns())
    alive = peak = 0
    for event in events:
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def compare(title: str, op: str, inputs: Sequence[Any], variant: str = "standard", **settings: Any) -> None:
    row = next(row for row in ENTRIES if (row.op, row.variant) == (op, variant))
    kernels = {"reference": load_target(row.spec.target), "composed": load_target(row.target)}
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for _ in range(5):
        for name, kernel in kernels.items():
            start = time.thread_time()
            run(kernel, inputs, settings)
            times[name].append(time.thread_time() - start)
    peaks = {name: peak_bytes(kernel, inputs, settings) / 2**20 for name, kernel in kernels.items()}
    cells = [f"{name} {1e3 * min(times[name]):8.1f} ms {peaks[name]:8.1f} MiB" for name in kernels]
    ratio = min(times["composed"]) / min(times["reference"])
    print(f"{title:44} {'   '.join(cells)}   time x{ratio:.2f}", flush=True)


def main(dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def drawn(*shape: int, grad: bool = True) -> Tensor:
        return torch.randn(*shape).to(dtype).requires_grad_(grad)

    logits, targets = drawn(N, V), torch.randint(0, V, (N,))
    compare(f"cross_entropy {N} x {V}", "cross_entropy", (logits, targets))
    compare(f"gather_log_probs {N} x {V}", "gather_log_probs", (logits, targets), temperature=0.7)
    parallel = {"vocab_start": 0, "reduce": lambda x, op: x}
    compare(f"vocab_parallel {N} x {V}", "cross_entropy", (logits, targets), "vocab_parallel", **parallel)
    lora = (drawn(N, D), drawn(F, D, grad=False), drawn(R, D), drawn(F, R))
    compare(f"lora_linear {N} x {D} to {F}, rank {R}", "lora_linear", lora, scale=2.0)
    weights, experts = moe_gate_softmax(torch.randn(N, E), top_k=K)
    rows, slots, counts = moe_permute(drawn(N, D, grad=False), experts, E)
    compare(f"moe_permute {N} x {D}, {K} of {E}", "moe_permute", (drawn(N, D), experts, E))
    compare(f"moe_unpermute {N} x {D}, {K} of {E}", "moe_unpermute", (drawn(N * K, D), slots, weights))
    grouped = (rows[: N * K // 4].clone().requires_grad_(), drawn(E, D, D), counts // 4)
    if int(grouped[2].sum()) != len(grouped[0]):
        grouped = (grouped[0][: int(grouped[2].sum())].detach().requires_grad_(), *grouped[1:])
    compare(f"grouped_matmul {len(grouped[0])} x {D} to {D}, {E}", "grouped_matmul", grouped)
    for bits in (3, 4):
        codes, scales, zeros = quantize_packed(torch.randn(F, D), bits, 128)
        for num_rows, grad in ((1, False), (256, True)):
            x = drawn(num_rows, D, grad=grad)
            title = f"packed_matmul {bits} bit, {num_rows} x {D} to {F}"
            compare(title, "packed_matmul", (x, codes, scales, zeros), bits=bits, group_size=128)
    codes, absmax = quantize_nf4(torch.randn(F, D), 64)
    settings = {"shape": (F, D), "block_size": 64, "dtype": dtype}
    compare(f"nf4_dequantize {F} x {D}", "nf4_dequantize", (codes, absmax), **settings)


if __name__ == "__main__":
    main({"fp32": torch.float32, "bf16": torch.bfloat16}[sys.argv[1] if len(sys.argv) > 1 else "fp32"])
