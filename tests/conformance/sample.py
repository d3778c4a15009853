"""One sample of torch's operator database, rebuilt on a device with the memory layout it has on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

SEED = 1729


@dataclass
class Placement:
    """Copies values to ``device``; tensors that share a storage share one there too.

    ``leaves`` collects the copies of tensors, in the order met. With ``with_grad`` those that ask for
    gradients become leaves of the graph; without, none does. ``notes`` is for the caller: facts that must not
    differ. ``is_used`` tells whether anything named a device: a sample without tensors need not.
    With ``precise`` tensors of that dtype, and its name where an operator is given one, become float64.
    """

    device: torch.device
    with_grad: bool = False
    precise: torch.dtype | None = None
    leaves: list[Tensor] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    is_used: bool = False
    _storages: dict[int, Tensor] = field(default_factory=dict)
    _tensors: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, value: Any) -> Any:
        match value:
            case Tensor():
                self.is_used = True
                if id(value) not in self._tensors:
                    self._tensors[id(value)] = self._copy(value)
                    self.leaves.append(self._tensors[id(value)])
                return self._tensors[id(value)]
            case torch.device(type="cpu"):
                self.is_used = True
                return self.device
            case torch.dtype() if value == self.precise:
                return torch.float64
            case torch.Generator():
                return torch.Generator(self.device).manual_seed(value.initial_seed())
            case LinearCrossEntropyOptions(acc_policy="auto"):
                # Torch chooses the accumulator by the name of the device; here both get the same.
                return replace(value, acc_policy="accurate", acc_dtype=torch.float32)
            case tuple() | list() as items if type(items) in (tuple, list):
                return type(items)(self(item) for item in items)
            case dict():
                return {key: self(item) for key, item in value.items()}
            case "cpu":
                self.is_used = True
                return str(self.device)
            case _:
                return value

    def _copy(self, tensor: Tensor) -> Tensor:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            copy = tensor.detach().to(self.device, copy=True)
        else:
            copy = self._copy_strided(tensor.detach())
        return copy.requires_grad_(self.with_grad and tensor.requires_grad)

    def _copy_strided(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._storages:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
            self._storages[storage.data_ptr()] = whole.clone().to(self.device)
        copy = torch.empty(0, dtype=tensor.dtype, device=self.device)
        whole = self._storages[storage.data_ptr()].untyped_storage()
        copy.set_(whole, tensor.storage_offset(), tensor.size(), tensor.stride())
        if tensor.dtype == self.precise:
            copy = copy.double()
        if tensor.is_conj():
            copy = copy.conj()
        return torch._neg_view(copy) if tensor.is_neg() else copy


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts."""
    match value:
        case Tensor():
            yield value
        case tuple() | list():
            for item in value:
                yield from tensors_of(item)
        case dict():
            for item in value.values():
                yield from tensors_of(item)
        case _:
            pass


@dataclass
class Outcome:
    """What a call left behind on one device: an error, or values and the state of its inputs."""

    error: Exception | None = None
    result: Any = None
    inputs: list[Tensor] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    gradients: list[Tensor | None] = field(default_factory=list)
    on_device: bool = True  # false if the call named no device at all
    backward_error: Exception | None = None

    def aliases(self) -> list[int]:
        """For every tensor of the result: the first input that shares its storage, or -1."""
        starts = [_start(tensor) for tensor in self.inputs]
        return [
            starts.index(_start(tensor)) if _start(tensor) in starts and _start(tensor) else -1
            for tensor in tensors_of(self.result)
        ]


def _start(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def run(
    call: Callable[[Placement], Any],
    device: torch.device,
    *,
    differentiable: Callable[[Any], Any] | None = None,
    seed: int = SEED,
    precise: torch.dtype | None = None,
) -> Outcome:
    """Call ``call`` with a placement on ``device``.

    ``differentiable`` says what of the result to take gradients of; without it none are taken.
    """
    placement = Placement(device, differentiable is not None, precise)
    torch.manual_seed(seed)
    try:
        with torch.set_grad_enabled(placement.with_grad):
            result = call(placement)
    except Exception as error:  # noqa: BLE001 - whatever an operator raises is what is judged here
        return Outcome(error=error)
    outcome = Outcome(result=result, inputs=placement.leaves, notes=placement.notes)
    outcome.on_device = placement.is_used
    if differentiable is not None:
        try:
            outcome.gradients = _gradients(differentiable(result), placement.leaves)
        except Exception as error:  # noqa: BLE001 - the same
            outcome.backward_error = error
    return outcome


def _gradients(result: Any, inputs: list[Tensor]) -> list[Tensor | None]:
    outputs = [tensor for tensor in tensors_of(result) if tensor.requires_grad]
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    if not outputs or not wanted:
        return []
    generator = torch.Generator().manual_seed(SEED)
    # Of few bits, so that they are the same numbers in every precision.
    weights = [
        torch.randn(output.shape, generator=generator).bfloat16().to(output.device, output.dtype)
        for output in outputs
    ]
    return list(torch.autograd.grad(outputs, wanted, weights, allow_unused=True))
