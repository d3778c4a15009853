"""Which results of a block to keep for the backward pass, if there is memory for some.

Recomputation takes an operator's operands from what is kept or computed anew, so keeping a result saves the
work of that operator and no other's: costs add up, and the best choice is that of a knapsack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from portable.parallel.memory.work import Op, can_be_kept, num_bytes, tensors_in, work

# pyright: reportPrivateUsage=false
# An operator's schema, and a storage's identity, have no public names.
_GRAINS = 2048  # steps in which room is counted
Call = tuple[str, int]
"""An operator, and how often it had been called before in the block."""


@dataclass(frozen=True, slots=True)
class Result:
    """What keeping the result of a call takes, in bytes, and spares, in work."""

    call: Call
    num_bytes: int
    work: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls whose results are kept. ``kept_bytes`` is a block's share with them, ``whole_bytes`` without
    recomputation; ``extra`` is recomputed work over that of the forward pass.
    """

    kept: frozenset[Call]
    kept_bytes: int
    whole_bytes: int
    extra: float

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is gained by recomputing."""
        return self.kept_bytes >= self.whole_bytes


@dataclass(slots=True)
class _Called:
    result: Result
    storages: frozenset[int]
    can_be_kept: bool


class Recorder(TorchDispatchMode):
    """Entered around a block's forward pass, learns what autograd keeps and what operators cost.

    ``is_open`` tells whether results may be kept just now; ``parameters`` are not counted.
    """

    def __init__(self, parameters: Sequence[Tensor], is_open: Callable[[], bool]) -> None:
        super().__init__()
        self._parameters = {_storage(parameter) for parameter in parameters}
        self._is_open = is_open
        self._counts: Counter[str] = Counter()
        self._called: list[_Called] = []
        self._kept: dict[int, int] = {}
        self._needed = 0  # recomputation ends with the last tensor that autograd kept
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        """Enter."""
        self._hooks.enter_context(saved_tensors_hooks(self._keep, lambda tensor: tensor))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # Any: as in every context manager
        """Leave."""
        super().__exit__(*error)
        self._hooks.close()

    def __torch_dispatch__(
        self,
        func: Op,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # Any: the form that torch prescribes
        """Run an operator as it is."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        call = str(func), self._counts[str(func)]
        self._counts[str(func)] += 1
        if func._schema.is_mutable:
            self._forget({_storage(tensor) for tensor in tensors_in((args, kwargs))})
        storages = frozenset(_storage(tensor) for tensor in tensors_in(out))
        result = Result(call, num_bytes(out), work(func, args, kwargs, out))
        fits = can_be_kept(func) and self._is_open() and result.num_bytes > 0
        self._called.append(_Called(result, storages, fits))
        return out

    def plan(self, fraction: float, input_bytes: int) -> Plan:
        """Return the best plan that keeps at most ``fraction`` of what the block keeps without one."""
        whole = sum(self._kept.values())
        needed = self._called[: self._needed]
        total = sum(called.result.work for called in self._called)
        if fraction >= 1.0:
            return Plan(frozenset(), whole, whole, 0.0)
        room = int(fraction * whole) - input_bytes
        results = [called.result for called in needed if called.can_be_kept]
        chosen = choose(results, room)
        spared = sum(result.work for result in chosen)
        extra = (sum(called.result.work for called in needed) - spared) / total if total else 0.0
        kept_bytes = input_bytes + sum(result.num_bytes for result in chosen)
        return Plan(frozenset(result.call for result in chosen), kept_bytes, whole, extra)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage not in self._parameters:
            self._kept[storage] = tensor.untyped_storage().nbytes()
        self._needed = len(self._called)
        return tensor

    def _forget(self, changed: set[int]) -> None:
        """Results that are changed in place later are no results any more."""
        for called in self._called:
            if called.storages & changed:
                called.can_be_kept = False


def choose(results: Sequence[Result], room: int) -> list[Result]:
    """Return the results that spare most work in ``room`` bytes: a 0/1 knapsack, exact to 1/2048 of the room,
    which is never exceeded.
    """
    if room <= 0:
        return []
    grain = max(1, -(-room // _GRAINS))
    limit = room // grain
    best = [_Choice() for _ in range(limit + 1)]
    for result in results:
        size = -(-result.num_bytes // grain)
        for place in range(limit, size - 1, -1):
            before = best[place - size]
            if before.work + result.work > best[place].work:
                best[place] = _Choice(before.work + result.work, result, before)
    return best[limit].results()


@dataclass(frozen=True, slots=True)
class _Choice:
    work: float = 0.0
    last: Result | None = None
    before: _Choice | None = field(default=None, repr=False)

    def results(self) -> list[Result]:
        found: list[Result] = []
        choice: _Choice | None = self
        while choice is not None and choice.last is not None:
            found.append(choice.last)
            choice = choice.before
        return found[::-1]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
