"""Run every sample of one operator of torch's database in all its forms."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal import common_methods_invocations
from torch.testing._internal.common_device_type import toleranceOverride

from tests.conformance.sample import SEED, Placement, run, tensors_of
from tests.conformance.verdict import AS_NEAR, NOT_COUNTED, Kind, Measure, Verdict, is_as_near, judge

CPU = torch.device("cpu")

# The database seeds most random operators itself, always alike; here two seeds must give two results, for
# that is how a random result is told from a wrong one.
common_methods_invocations.wrapper_set_seed = lambda function, *arguments, **named: function(
    *arguments, **named
)
UNINITIALISED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
}
"""Their results hold whatever the memory held; only form can be compared."""

CORRUPTS_MEMORY = {"tril", "triu", "lu_unpack", "linalg.lu"}
"""On the CPU itself, torch 2.13 writes out of bounds if ``out=`` is batched and in column-major order."""


def samples_of(op: Any, dtype: torch.dtype) -> Iterator[Any]:
    """Yield the samples of ``op`` on the CPU."""
    torch.manual_seed(SEED)
    with_grad = bool(op.supports_autograd) and dtype in op.supported_backward_dtypes("cpu")
    yield from op.sample_inputs("cpu", dtype, requires_grad=with_grad)


def tolerance_of(op: Any, dtype: torch.dtype) -> tuple[float, float] | None:
    """Return the widest (rtol, atol) that torch's own tests grant ``op``; none if they grant none."""
    granted = [
        override.d[dtype]
        for info in op.decorators
        for override in getattr(info, "decorators", [info])
        if isinstance(override, toleranceOverride) and dtype in override.d
    ]
    if not granted:
        return None
    return max(tolerance.rtol for tolerance in granted), max(tolerance.atol for tolerance in granted)


def check_operator(
    op: Any, dtype: torch.dtype, device: torch.device, started: Callable[[int], None]
) -> dict[str, Any]:
    """Judge all samples of ``op``; ``started`` is told the number of each before it runs."""
    counts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {"refused": Counter(), "different": Counter(), "close": Counter()}
    first: dict[str, int] = {}
    forms: Counter[str] = Counter()
    for index, sample in enumerate(samples_of(op, dtype)):
        started(index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdicts = check_sample(op, sample, dtype, device)
        forms.update(form for form, verdict in verdicts.items() if verdict.kind is not Kind.not_counted)
        verdict = _overall(verdicts)
        counts[verdict.kind.name] += 1
        if verdict.reason:
            reasons[verdict.kind.name][verdict.reason] += 1
            first.setdefault(verdict.reason, index)
    return {
        "counts": dict(counts),
        "forms": dict(forms),
        "reasons": {kind: dict(found.most_common(20)) for kind, found in reasons.items() if found},
        "first_sample": first,
    }


def _overall(verdicts: dict[str, Verdict]) -> Verdict:
    if verdicts["function"].kind is Kind.not_counted:
        return verdicts["function"]
    form, verdict = max(verdicts.items(), key=lambda item: item[1].kind.value)
    return Verdict(verdict.kind, f"{form}: {verdict.reason}" if verdict.reason else "")


def check_sample(op: Any, sample: Any, dtype: torch.dtype, device: torch.device) -> dict[str, Verdict]:
    """Judge one sample as a function (with gradients), in place, and with ``out=``."""
    measure = Measure(device, dtype, op.name not in UNINITIALISED, tolerance_of(op, dtype))

    def function(place: Placement) -> Any:
        return _call(op.op, sample, place)

    verdicts = {"function": _check(function, measure, sample.output_process_fn_grad)}
    if verdicts["function"].kind is Kind.not_counted:
        return verdicts
    if op.inplace_variant is not None and not sample.broadcasts_input:
        verdicts["in place"] = _check(lambda place: _call_in_place(op, sample, place), measure)
    outputs = _outputs(run(function, CPU).result) if op.supports_out else ()
    if outputs:
        for form, empty in (("out", False), ("resized out", True)):
            if form == "out" and op.name in CORRUPTS_MEMORY:
                continue
            call = partial(_call_out, op, sample, outputs=outputs, empty=empty)
            verdicts[form] = _check(call, measure)
    return verdicts


def _check(
    call: Callable[[Placement], Any],
    measure: Measure,
    differentiable: Callable[[Any], Any] | None = None,
) -> Verdict:
    cpu = run(call, CPU, differentiable=differentiable)
    if cpu.error is not None:
        return NOT_COUNTED
    other = run(call, measure.place, differentiable=differentiable)
    verdict = judge(cpu, other, measure)
    form = judge(cpu, other, replace(measure, values=False))
    if verdict.kind is not Kind.different or form.kind is Kind.different or not measure.values:
        return verdict
    for seed in range(SEED + 1, SEED + 9):
        again = run(call, CPU, differentiable=differentiable, seed=seed)
        if judge(cpu, again, replace(measure, place=CPU)).kind is not Kind.exact:
            # Random on the CPU too: another seed gives other numbers, so only form can be compared.
            return form
    precise = run(call, CPU, differentiable=differentiable, precise=measure.dtype)
    return AS_NEAR if is_as_near(cpu, other, precise) else verdict


def _call(function: Callable[..., Any], sample: Any, place: Placement, **more: Any) -> Any:
    return function(place(sample.input), *place(sample.args), **place(sample.kwargs), **more)


def _call_in_place(op: Any, sample: Any, place: Placement) -> Any:
    result = _call(op.inplace_variant, sample, place)
    written = place(sample.input)
    if isinstance(written, Tensor):
        place.notes["returns its input"] = result is written
        place.notes["version"] = written._version
        place.notes["geometry"] = (written.stride(), written.storage_offset())
    return result


def _outputs(result: Any) -> tuple[Tensor, ...]:
    """What ``out=`` takes in place of ``result``; nothing if it is not made of plain tensors."""
    outputs = (result,) if isinstance(result, Tensor) else result
    plain = isinstance(outputs, tuple) and all(isinstance(output, Tensor) for output in outputs)
    return tuple(outputs) if plain else ()


def _call_out(op: Any, sample: Any, place: Placement, *, outputs: tuple[Tensor, ...], empty: bool) -> Any:
    """Write into tensors of the right shape but column-major order, or into empty ones that must grow."""
    out = [_output_like(tensor, place.device, empty) for tensor in outputs]
    strides = [tensor.stride() for tensor in out]
    result = _call(op.op, sample, place, out=out[0] if len(out) == 1 else tuple(out))
    place.notes["returns out"] = all(a is b for a, b in zip(tensors_of(result), out, strict=False))
    place.notes["keeps the strides of out"] = strides == [tensor.stride() for tensor in out]
    return out


def _output_like(tensor: Tensor, device: torch.device, empty: bool) -> Tensor:
    if empty:
        return torch.empty(0, dtype=tensor.dtype, device=device)
    filled = torch.full(tuple(reversed(tensor.shape)), 7, dtype=tensor.dtype, device=device)
    return filled.permute(*reversed(range(tensor.dim())))
