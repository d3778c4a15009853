"""One row asked one case: values, gradients, what it leaves alone, and how it behaves without data."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from portable.core.errors import PortableError
from portable.core.registry import load_target
from portable.kernel.conformance.case import Case, Inputs, convert, tensors_in
from portable.kernel.conformance.measure import (
    Deviation,
    coarsest,
    compare,
    gradient_sizes,
    output_sizes,
    ratio,
)
from portable.kernel.conformance.oracle import call, differentiate, expect, op_of
from portable.kernel.entry import Kernel, KernelEntry

_READS_DATA = (DataDependentOutputException, DynamicOutputShapeException)
_ANY_NUMBER = 100_000  # from here on an error is wrong, and how much tells nothing
_LEAST_OF_GRADIENTS = 2.0  # units; a gradient sums where the result does not
_NO_FORM = "on tensors without data, as a compiler sees it, (a torch.library operator needs a fake) it raises"


class RowError(PortableError):
    """A row does not keep what its entry promises. ``ratio`` is the error's, where it is one of numbers."""

    def __init__(self, text: str, ratio: float = 0.0) -> None:
        super().__init__(text)
        self.ratio = ratio


@contextmanager
def blamed(what: str) -> Generator[None]:
    """Turn whatever a row raises into a RowError that begins with ``what``."""
    try:
        yield
    except RowError:
        raise
    except Exception as error:  # the code is somebody else's, and so are its exceptions
        text = " ".join(str(error).split())[:400]
        raise RowError(f"{what}: {type(error).__name__}: {text}") from error


@dataclass(frozen=True, slots=True)
class Examination:
    """``kernel``, loaded from ``entry``, and the case it is asked in ``dtype`` on ``device``."""

    entry: KernelEntry
    kernel: Kernel
    case: Case
    dtype: str
    device: torch.device

    def run(self) -> float:
        """Return the largest error as a multiple of the reference's. Raises: RowError for what is wrong."""
        if self.case.invalid:
            self._check_complaint()
            return 0.0
        worst, plain = self.check_values()
        if self.entry.deterministic and self.case.repeated:
            self._check_same_bits(plain)
        self._check_without_data(plain)
        return worst

    def check_values(self) -> tuple[float, list[Tensor]]:
        """Compare results and gradients; return the largest error and the results without a graph.

        Raises: RowError for what is wrong.
        """
        plain = self._answer(with_grad=False)
        worst = self._check_outputs(plain, with_grad=False)
        if self.case.leaves:
            worst = max(worst, self._check_gradients())
        return worst, plain

    def _answer(self, *, with_grad: bool, inputs: Inputs | None = None) -> list[Tensor]:
        """Return the outputs; the inputs must come out as they went in."""
        placed = inputs if inputs is not None else self._placed(with_grad=with_grad)
        before = {name: [(x._version, x.detach().clone()) for x in xs] for name, xs in self._kept(placed)}
        with torch.set_grad_enabled(with_grad), blamed("it raises"):
            outputs = call(self.kernel, op_of(self.case), placed)
            for x in outputs:
                x.detach().cpu()  # what went wrong on the device shows when its values are asked for
        for name, xs in self._kept(placed):
            for x, (version, values) in zip(xs, before[name], strict=True):
                if x._version != version or not _same_bits(x, values):
                    raise RowError(f"it writes into its input {name}")
        return outputs

    def _placed(self, *, with_grad: bool) -> Inputs:
        return self.case.place(self.case.draw_inputs(self.dtype), self.device, with_grad=with_grad)

    def _kept(self, placed: Inputs) -> list[tuple[str, list[Tensor]]]:
        mutates = op_of(self.case).mutates
        return [(name, list(tensors_in(value))) for name, value in placed.items() if name not in mutates]

    def _check_outputs(self, outputs: Sequence[Tensor], *, with_grad: bool) -> float:
        known = expect(self.case, self.dtype, self.device)
        references = known.reference.outputs if with_grad else known.plain
        if len(outputs) != len(references):
            raise RowError(f"it returns {len(outputs)} tensors, not {len(references)}")
        worst = 0.0
        for index, (actual, reference, truth) in enumerate(
            zip(outputs, references, known.truth.outputs, strict=True)
        ):
            what = f"output {index} {'with' if with_grad else 'without'} gradients"
            self._check_form(what, actual, reference)
            if actual.device.type != self.device.type:
                raise RowError(f"{what} is on {actual.device}, not on {self.device}")
            sizes = output_sizes(truth, self.case.scale)
            worst = max(
                worst, self._judge(what, compare(actual, truth, sizes), compare(reference, truth, sizes))
            )
        return worst

    def _check_form(self, what: str, actual: Tensor, reference: Tensor) -> None:
        if (actual.shape, actual.dtype) != (reference.shape, reference.dtype):
            raise RowError(
                f"{what} is {_form(actual.shape, actual.dtype)}, not "
                f"{_form(reference.shape, reference.dtype)}"
            )

    def _judge(self, what: str, actual: Deviation, reference: Deviation, least: float = 1.0) -> float:
        if actual.fault:
            raise RowError(f"{what} {actual.fault}", actual.units)
        found = ratio(actual, reference, least)
        if not found <= self.entry.tolerance:
            times = f"{found:.3g}" if found < _ANY_NUMBER else f"over {_ANY_NUMBER:,}"
            raise RowError(
                f"{what}: {times} times the error of the reference, {self.entry.tolerance:g} is allowed; "
                f"{actual.text}",
                found,
            )
        return found

    def _check_gradients(self) -> float:
        placed = self._placed(with_grad=True)
        outputs = self._answer(with_grad=True, inputs=placed)
        worst = self._check_outputs(outputs, with_grad=True)
        if not self.entry.differentiable and not any(x.requires_grad for x in outputs):
            return worst
        known = expect(self.case, self.dtype, self.device)
        with blamed("its backward pass raises"):
            found = differentiate(self.case, placed, outputs, known.cotangents)
        names = list(self.case.leaves)
        sizes = gradient_sizes([known.truth.gradients[name] for name in names], known.cotangents)
        for name, size in zip(names, sizes, strict=True):
            worst = max(worst, self._check_gradient(name, found[name], size))
        return worst

    def _check_gradient(self, name: str, actual: Tensor | None, size: float) -> float:
        known = expect(self.case, self.dtype, self.device)
        truth, reference = known.truth.gradients[name], known.reference.gradients[name]
        if truth is None or reference is None:
            return 0.0
        if actual is None:
            if self.entry.differentiable:
                raise RowError(f"it gives no gradient to {name}")
            return 0.0  # but those that it gives must be right
        what = f"the gradient of {name}"
        self._check_form(what, actual, reference)
        kept_in = coarsest(known.reference.outputs)
        deviations = [compare(x, truth, size, kept_in) for x in (actual, reference)]
        if self.case.ill_conditioned and not deviations[0].fault:
            return 0.0
        return self._judge(what, *deviations, least=_LEAST_OF_GRADIENTS)

    def _check_same_bits(self, first: Sequence[Tensor]) -> None:
        second = self._answer(with_grad=False)
        if not all(_same_bits(a, b) for a, b in zip(first, second, strict=True)):
            raise RowError("it says that it is deterministic, but two calls differ")
        if self.case.leaves and self.entry.differentiable:
            one, two = self._gradients(), self._gradients()
            for name, grad in one.items():
                other = two[name]
                if grad is not None and other is not None and not _same_bits(grad, other):
                    raise RowError(f"it says that it is deterministic, but two gradients of {name} differ")

    def _gradients(self) -> dict[str, Tensor | None]:
        placed = self._placed(with_grad=True)
        outputs = call(self.kernel, op_of(self.case), placed)
        cotangents = expect(self.case, self.dtype, self.device).cotangents
        return differentiate(self.case, placed, outputs, cotangents)

    def _check_without_data(self, real: Sequence[Tensor]) -> None:
        """Run the row as a compiler would, on tensors that have a form and no data.

        A row may say that it must read data, which a compiler respects; what it may not do is fail otherwise
        where the reference does not, or return another form.
        """
        try:
            if self._forms(load_target(op_of(self.case).target)) is None:
                return
        except RowError:
            return
        forms = self._forms(self.kernel)
        wanted = [(tuple(x.shape), x.dtype) for x in real]
        if forms is not None and forms != wanted:
            raise RowError(f"on tensors without data it returns {_forms(forms)}, not {_forms(wanted)}")

    def _forms(self, kernel: Kernel) -> list[tuple[tuple[int, ...], torch.dtype]] | None:
        """Return shapes and dtypes of the results for tensors without data; None if data must be read."""
        mode = FakeTensorMode()
        inputs = convert(self._placed(with_grad=False), mode.from_tensor)
        try:
            with blamed(_NO_FORM), mode, torch.no_grad():
                outputs = call(kernel, op_of(self.case), inputs)
        except RowError as error:
            if isinstance(error.__cause__, _READS_DATA):
                return None
            raise
        return [(tuple(x.shape), x.dtype) for x in outputs]

    def _check_complaint(self) -> None:
        wanted = self._complaint(load_target(op_of(self.case).target))
        if wanted is None or not issubclass(wanted, PortableError):
            raise RowError(f"the reference does not complain as it should: {wanted}")
        found = self._complaint(self.kernel)
        if found is not wanted:
            what = "accepts them" if found is None else f"raises {found.__name__}"
            raise RowError(f"for inputs that do not fit it {what}; the reference raises {wanted.__name__}")

    def _complaint(self, kernel: Kernel) -> type[BaseException] | None:
        try:
            with blamed("it raises"):
                call(kernel, op_of(self.case), self._placed(with_grad=False))
        except RowError as error:
            return None if error.__cause__ is None else type(error.__cause__)
        return None


def _form(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{tuple(shape)} {str(dtype).removeprefix('torch.')}"


def _forms(forms: Sequence[tuple[Sequence[int], torch.dtype]]) -> str:
    return ", ".join(_form(*form) for form in forms)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())
