"""Compare what an operator did on a device with what it did on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from tests.conformance.sample import Outcome, tensors_of


class Kind(Enum):
    """From best to worst; a sample is as good as its worst part."""

    exact = 0  # the same bits
    close = 1  # within the tolerance of torch.testing for the dtype, or as near to float64 as the CPU
    refused = 2  # a clear error, raised on the device only
    different = 3  # anything else: what must not be
    not_counted = -1  # the CPU itself refuses


@dataclass(frozen=True)
class Verdict:
    kind: Kind
    reason: str = ""


EXACT = Verdict(Kind.exact)
NOT_COUNTED = Verdict(Kind.not_counted)
AS_NEAR = Verdict(Kind.close, "as near to float64 as the CPU, by another order of rounding")


def worst(verdicts: list[Verdict]) -> Verdict:
    return max(verdicts, key=lambda verdict: verdict.kind.value, default=NOT_COUNTED)


@dataclass(frozen=True)
class Measure:
    """How to compare with results on ``place``.

    Without ``values`` all but the numbers is compared, for random and uninitialised results. ``tolerance`` is
    (rtol, atol), or none for the defaults of ``torch.testing`` for the dtype.
    """

    place: torch.device
    dtype: torch.dtype = torch.float32
    values: bool = True
    tolerance: tuple[float, float] | None = None


def judge(cpu: Outcome, device: Outcome, measure: Measure) -> Verdict:
    """Compare two outcomes."""
    if cpu.error is not None or not cpu.on_device:
        return NOT_COUNTED
    if device.error is not None:
        return refusal(device.error)
    for key, note in cpu.notes.items():
        # What the CPU keeps the device must keep; what the CPU changes the device may keep.
        if device.notes[key] != note and (note or not isinstance(note, bool)):
            return Verdict(Kind.different, f"{key}: {device.notes[key]} for {note}")
    verdicts = [
        _compare_all("result", cpu.result, device.result, measure),
        _compare_aliases(cpu, device),
        _compare_all("input after the call", cpu.inputs, device.inputs, measure),
    ]
    if cpu.backward_error is None:
        if device.backward_error is not None:
            verdicts.append(refusal(device.backward_error))
        else:
            verdicts.append(_compare_all("gradient", cpu.gradients, device.gradients, measure))
    return worst(verdicts)


def is_as_near(cpu: Outcome, device: Outcome, precise: Outcome) -> bool:
    """Tell whether the device is at most twice as far from the result in float64 as the CPU, plus rounding.

    Two orders of the same sum may differ by more than a tolerance in single numbers, most of all in bfloat16.
    Torch's accuracy checks of compiled models use the same rule (torch._dynamo.utils.same); errors are the
    largest of a tensor, rounding is one unit in the last place of its largest number.
    """
    if precise.error is not None or precise.backward_error is not None:
        return False
    parts = [
        list(tensors_of([outcome.result, outcome.inputs, outcome.gradients]))
        for outcome in (cpu, device, precise)
    ]
    if len({len(part) for part in parts}) > 1:
        return False
    return all(_as_near(*tensors) for tensors in zip(*parts, strict=True))


def _as_near(cpu: Tensor, device: Tensor, precise: Tensor) -> bool:
    expected, actual = cpu.detach(), device.detach().cpu()
    if not expected.is_floating_point() or _equal_with_nans(expected, actual):
        return _equal_with_nans(expected, actual)
    truth = precise.detach()
    rounding = truth.abs().max() * torch.finfo(expected.dtype).eps
    cpu_error = (expected.double() - truth).abs().max()
    return bool((actual.double() - truth).abs().max() <= 2 * cpu_error + rounding)


def refusal(error: Exception) -> Verdict:
    """A refusal is a RuntimeError (or NotImplementedError) with a message for people; all else is a fault."""
    text = str(error).strip()
    line = " ".join(text.split())[:240]
    clear = isinstance(error, RuntimeError) and text and "INTERNAL ASSERT" not in text
    return Verdict(Kind.refused if clear else Kind.different, f"{type(error).__name__}: {line}")


def _compare_all(what: str, cpu: Any, device: Any, measure: Measure) -> Verdict:
    expected, actual = list(tensors_of(cpu)), list(tensors_of(device))
    if len(expected) != len(actual):
        return Verdict(Kind.different, f"{what}: {len(actual)} tensors for {len(expected)}")
    if (
        not expected
        and measure.values
        and not isinstance(cpu, list | tuple | dict)
        and not _same_value(cpu, device)
    ):
        return Verdict(Kind.different, f"{what}: {device!r} for {cpu!r}")
    return worst([EXACT] + [_compare(what, a, b, measure) for a, b in zip(expected, actual, strict=True)])


def _same_value(cpu: Any, device: Any) -> bool:
    return type(cpu) is type(device) and (cpu == device or cpu != cpu)


def _compare(what: str, cpu: Tensor, device: Tensor, measure: Measure) -> Verdict:
    if device.device.type != measure.place.type:
        return Verdict(Kind.different, f"{what} is on {device.device}")
    if (cpu.shape, cpu.dtype, cpu.layout) != (device.shape, device.dtype, device.layout):
        return Verdict(
            Kind.different,
            f"{what}: {tuple(device.shape)} {device.dtype} for {tuple(cpu.shape)} {cpu.dtype}",
        )
    if (cpu.is_conj(), cpu.is_neg()) != (device.is_conj(), device.is_neg()):
        return Verdict(Kind.different, f"{what}: conjugate or negative bit")
    if not measure.values:
        return EXACT
    expected, actual = cpu.detach(), device.detach().cpu()
    if _equal_with_nans(expected, actual):
        return EXACT
    try:
        rtol, atol = measure.tolerance or (None, None)
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    except AssertionError as error:
        return Verdict(Kind.different, f"{what}: {' '.join(str(error).split())[:200]}")
    return Verdict(Kind.close, what)


def _equal_with_nans(a: Tensor, b: Tensor) -> bool:
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return bool(((a == b) | ((a != a) & (b != b))).all()) if a.layout == torch.strided else False


def _compare_aliases(cpu: Outcome, device: Outcome) -> Verdict:
    """A view must be a view of the same input with the same geometry; a fresh result must be fresh."""
    expected, actual = cpu.aliases(), device.aliases()
    if expected != actual:
        return Verdict(
            Kind.different, f"result shares storage with inputs {actual}, on the CPU with {expected}"
        )
    for index, a, b in zip(expected, tensors_of(cpu.result), tensors_of(device.result), strict=True):
        geometry = (a.stride(), a.storage_offset()), (b.stride(), b.storage_offset())
        if index >= 0 and geometry[0] != geometry[1]:
            return Verdict(Kind.different, f"view has geometry {geometry[1]}, on the CPU {geometry[0]}")
    return EXACT
