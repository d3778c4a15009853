"""Memory of a training run by class: parameters, gradients, optimiser state, and what is left of the peak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from portable.device.protocol import Device
from portable.parallel.gradient import local
from portable.parallel.strategy import StepOptimizer, Strategy


class ModelMemory:
    """This rank's bytes, by the storages that are alive.

    Parameters, gradients and optimiser state are counted once, in the first step: their sizes do not change
    after it. ``activations`` is the device's peak since the last reading, less these three and less what was
    in use for other things before training (on a processor, the program itself): what forward and backward
    need on top, communication buffers included. It is None where the device keeps no peak.
    """

    def __init__(self, strategy: Strategy, optimizer: StepOptimizer, device: Device, index: int) -> None:
        self._strategy = strategy
        self._optimizer = optimizer
        self._device = device
        self._index = index
        self._states: dict[str, int] = {}
        self._other = max(0, device.memory(index).used_bytes - storage_bytes(self._parameters()))
        device.reset_peak_memory()

    def note_gradients(self) -> None:
        """Count the gradients; called when all of them are there."""
        if "gradients" not in self._states:
            own = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
            self._states["gradients"] = storage_bytes([*own, *self._held("gradients")])

    def read(self) -> dict[str, float | None]:
        """Return ``memory_CLASS_bytes`` of every class and ``memory_peak_bytes``; the peak begins anew."""
        if "optimizer" not in self._states and self._states:
            self._states["parameters"] = storage_bytes(self._parameters())
            self._states["optimizer"] = storage_bytes(self._optimizer_state())
        peak = self._device.memory(self._index).peak_bytes
        self._device.reset_peak_memory()
        values: dict[str, float | None] = {f"memory_{name}_bytes": n for name, n in self._states.items()}
        values["memory_peak_bytes"] = peak
        rest = None if peak is None else max(0, peak - sum(self._states.values()) - self._other)
        values["memory_activations_bytes"] = rest
        return values

    def _parameters(self) -> Iterator[Tensor]:
        for module in self._strategy.modules:
            yield from module.parameters()
        for shard in self._strategy.shards():  # a strategy may update copies of its own
            yield shard.parameter
        yield from self._held("parameters")

    def _optimizer_state(self) -> Iterator[Tensor]:
        for part in self._optimizer.parts:
            for state in part.state.values():
                yield from (value for value in state.values() if isinstance(value, Tensor))
        yield from self._held("optimizer")

    def _held(self, kind: str) -> list[Tensor]:
        return self._strategy.held().get(kind, [])


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the storages beneath, each counted once, however many tensors share it."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        storage = local(tensor).untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
