"""From what a communicator can do to the functions that a group calls: chosen once, with reasons.

Two questions are answered apart, and combined for each (reduction, dtype): in which format the numbers are
kept while they are reduced, and which reduction the transport is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from portable.collective.protocol import Collective, ReduceOp
from portable.collective.transport import StandIn, TorchOp, Transport
from portable.core.errors import CapabilityError
from portable.device.capability import DTYPES, Capability, Role, Support

# What a collective can be made of, which the transport must then do itself, and how.
STAND_INS = {
    Collective.all_reduce: (Collective.all_gather, "all ranks gather, and each reduces by itself"),
    Collective.reduce_scatter: (Collective.all_reduce, "all is reduced, and each rank keeps its block"),
    Collective.all_gather: (Collective.broadcast, "the ranks broadcast one after the other"),
    Collective.all_to_all: (Collective.send_recv, "every pair of ranks exchanges"),
    Collective.broadcast: (Collective.all_reduce, "the source's bytes and the others' zeros are added"),
    Collective.gather: (Collective.all_gather, "all ranks gather, and the others drop it"),
    Collective.scatter: (Collective.broadcast, "all is broadcast, and each rank keeps its block"),
}
TORCH_OPS: dict[ReduceOp, TorchOp] = {
    ReduceOp.sum: dist.ReduceOp.SUM,
    ReduceOp.mean: dist.ReduceOp.AVG,  # portable: ignore[P06] - used where the capability has it
    ReduceOp.max: dist.ReduceOp.MAX,
    ReduceOp.min: dist.ReduceOp.MIN,
    ReduceOp.product: dist.ReduceOp.PRODUCT,
}
# Booleans are reduced as 0 and 1 of an integer format, whose sum would count them, and overflow.
BOOLEAN_OPS = {
    ReduceOp.sum: ReduceOp.max,
    ReduceOp.max: ReduceOp.max,
    ReduceOp.product: ReduceOp.min,
    ReduceOp.min: ReduceOp.min,
}
REAL_OF = {torch.complex64: torch.float32, torch.complex128: torch.float64}
# What a format is reduced in where the transport does not reduce it: the first of these that it does.
# Integers wrap around in the wider format and then in their own, which ends where wrapping at once does.
_INTEGERS = (torch.int32, torch.int64)
_EIGHT_BIT_FLOATS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
WIDER: dict[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.bool: (torch.int8, *_INTEGERS),
    **dict.fromkeys((torch.uint8, torch.int8, torch.int16, torch.uint16), _INTEGERS),
    **dict.fromkeys((torch.int32, torch.uint32), (torch.int64,)),
    **dict.fromkeys((torch.float16, torch.bfloat16, *_EIGHT_BIT_FLOATS), (torch.float32,)),
}
# Never reduced as they are: a bool for the reason above; an 8-bit float because each step on the way from
# rank to rank would round to its two or three binary places, where a wider sum rounds once.
ALWAYS_WIDER = frozenset((torch.bool, *_EIGHT_BIT_FLOATS))
NAME_OF: dict[torch.dtype, str] = {getattr(torch, word): name for name, word in DTYPES.items()}
ALL_DTYPES = tuple(dict.fromkeys((*NAME_OF, *WIDER, *REAL_OF)))

Key = Collective | torch.dtype | tuple[ReduceOp, torch.dtype]
Reduce = Callable[[Tensor, float], Tensor]  # (tensor, factor of premul_sum)
Step = Callable[[Tensor, float], Tensor]  # in place where it can be
Core = Callable[[Tensor, TorchOp], Tensor]  # takes a contiguous tensor that is given away


@dataclass(frozen=True, slots=True)
class Reduction:
    """One reduction of one dtype. Both functions leave their tensor as it is."""

    all_reduce: Reduce
    reduce_scatter: Reduce


@dataclass(frozen=True, slots=True)
class Format:
    """How the numbers of a dtype are kept while they are reduced; ``enter`` makes a contiguous copy.

    ``by_ranks``: the transport reduces no format that would do, so the ranks gather and reduce by themselves.
    """

    dtype: torch.dtype
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    by_ranks: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a group calls, and the reason for what it does not call."""

    moves: dict[Collective, Callable[..., Any]]  # Any: each has its own signature, see Transport
    carried: frozenset[torch.dtype]  # travel as they are, all others as bytes
    reductions: dict[tuple[ReduceOp, torch.dtype], Reduction]
    refused: dict[Key, str]
    choices: dict[str, str]


def resolve(capability: Capability, transport: Transport) -> Plan:
    """Choose for ``transport``, which does what ``capability`` says. What is missing is noted, not raised."""
    stand_in = StandIn(transport)
    moves: dict[Collective, Callable[..., Any]] = {}  # Any: see Plan
    refused: dict[Key, str] = {}
    choices: dict[str, str] = {}
    for collective in Collective:
        maker, how = _choose(collective, capability, transport, stand_in)
        choices[collective.name] = how
        if maker is None:
            refused[collective] = how
        elif collective is not Collective.send_recv:
            moves[collective] = getattr(maker, collective.name)
    choices |= {op.name: _op_choice(op, capability) for op in ReduceOp}
    reductions: dict[tuple[ReduceOp, torch.dtype], Reduction] = {}
    for dtype in ALL_DTYPES:
        name = str(dtype).removeprefix("torch.")
        missing = NAME_OF.get(dtype) and capability.dtype(Role.collective, NAME_OF[dtype]) is Support.none
        if missing:
            refused[dtype] = f"the communicator '{capability.communicator}' has no {name}"
        form = None if missing else _format(dtype, capability)
        choices[name] = refused.get(dtype) or _dtype_choice(dtype, form, capability)
        for op in ReduceOp:
            try:
                reductions[op, dtype] = _reduction(op, dtype, form, capability, moves, stand_in)
            except CapabilityError as error:
                refused[op, dtype] = str(error)
    carried = frozenset(dtype for dtype in NAME_OF if _is_native(dtype, capability) and dtype not in REAL_OF)
    return Plan(moves, carried, reductions, refused, choices)


def _choose(
    collective: Collective, capability: Capability, transport: Transport, stand_in: StandIn
) -> tuple[Transport | StandIn | None, str]:
    support = capability.collectives.get(collective.name, Support.none)
    if support is Support.native:
        return transport, "native"
    asked = f"the communicator '{capability.communicator}' has no {collective.name}"
    if support is Support.none or collective not in STAND_INS:
        return None, asked
    base, how = STAND_INS[collective]
    if capability.collectives.get(base.name) is not Support.native:
        return None, f"{asked}, nor {base.name}, of which it could be made"
    return stand_in, f"emulated by {base.name}: {how}"


def _is_native(dtype: torch.dtype, capability: Capability) -> bool:
    return dtype in NAME_OF and capability.dtype(Role.collective, NAME_OF[dtype]) is Support.native


def _format(dtype: torch.dtype, capability: Capability) -> Format | None:
    """Return the format to reduce ``dtype`` in; None if neither the transport nor the device reduces one."""
    if dtype in REAL_OF:
        real = _format(REAL_OF[dtype], capability)
        if real is None or real.dtype is not REAL_OF[dtype]:
            return None
        return Format(
            real.dtype, lambda x: real.enter(torch.view_as_real(x)), torch.view_as_complex, real.by_ranks
        )
    if _is_native(dtype, capability) and dtype not in ALWAYS_WIDER:
        return Format(dtype, _copy, lambda x: x)
    for wide in WIDER.get(dtype, ()):
        if _is_native(wide, capability):
            return Format(
                wide,
                lambda x, wide=wide: x.to(wide, memory_format=torch.contiguous_format),
                lambda x: x.to(dtype),
            )
    name = NAME_OF.get(dtype)
    if name and Support.none not in {capability.dtype(role, name) for role in (Role.collective, Role.reduce)}:
        return Format(dtype, _copy, lambda x: x, by_ranks=True)
    return None


def _reduction(
    op: ReduceOp,
    dtype: torch.dtype,
    form: Format | None,
    capability: Capability,
    moves: dict[Collective, Callable[..., Any]],  # Any: see Plan
    stand_in: StandIn,
) -> Reduction:
    """Compose a reduction. Raises: CapabilityError with the reason why it cannot be."""
    name = f"{op.name} of {str(dtype).removeprefix('torch.')}"
    communicator = f"the communicator '{capability.communicator}'"
    if form is None:
        raise CapabilityError(f"{communicator} reduces neither this format nor a wider one: {name}")
    if dtype is torch.bool and op not in BOOLEAN_OPS:
        raise CapabilityError(f"the {name} is no bool; convert to a float")
    before, asked, after = _steps(
        BOOLEAN_OPS[op] if dtype is torch.bool else op, form, capability, stand_in.size
    )
    supports = {capability.reduce_ops.get(needed.name, Support.none) for needed in (op, asked)}
    if Support.none in supports:
        raise CapabilityError(f"{communicator} has no {name}; its reductions: {_usable(capability)}")
    if capability.reduce_ops[asked.name] is Support.native and not form.by_ranks:
        cores = moves.get(Collective.all_reduce), moves.get(Collective.reduce_scatter)
    elif capability.collectives.get(Collective.all_gather.name) is Support.native:
        cores = stand_in.all_reduce, stand_in.reduce_scatter_by_gather
    else:
        raise CapabilityError(f"{communicator} has no all_gather, of which the {name} could be made")

    def bind(core: Core | None) -> Reduce:
        def reduce(tensor: Tensor, factor: float) -> Tensor:
            if core is None:
                raise CapabilityError(f"{communicator} has no collective for the {name}")
            torch_op = (  # portable: ignore[P06] - asked for only where the capability has it
                TORCH_OPS[asked] if asked in TORCH_OPS else dist.ReduceOp.PREMUL_SUM(factor)
            )
            return form.leave(after(core(before(form.enter(tensor), factor), torch_op), factor))

        return reduce

    return Reduction(bind(cores[0]), bind(cores[1]))


def _steps(op: ReduceOp, form: Format, capability: Capability, size: int) -> tuple[Step, ReduceOp, Step]:
    """Return what to do before, which reduction to ask for, what to do after.

    A mean of 16-bit floats with a 5-bit exponent is divided first on every communicator: some sum first
    where they offer a mean, and a sum leaves that format's range at 65504.
    """
    native = (
        capability.reduce_ops.get(op.name) is Support.native
        and capability.collectives.get(Collective.all_reduce.name) is Support.native
        and not form.by_ranks
    )
    if op is ReduceOp.mean and form.dtype is torch.float16:
        return lambda x, _: x.div_(size), ReduceOp.sum, _keep
    if op is ReduceOp.mean and not native:
        return _keep, ReduceOp.sum, lambda x, _: x.div_(size)
    if op is ReduceOp.premul_sum and not native:
        return lambda x, factor: x.mul_(factor), ReduceOp.sum, _keep
    return _keep, op, _keep


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _keep(tensor: Tensor, factor: float) -> Tensor:
    return tensor


def _usable(capability: Capability) -> str:
    names = [name for name, support in capability.reduce_ops.items() if support is not Support.none]
    return ", ".join(names) or "none"


def _op_choice(op: ReduceOp, capability: Capability) -> str:
    support = capability.reduce_ops.get(op.name, Support.none)
    if support is Support.none:
        return f"the communicator '{capability.communicator}' has no {op.name}"
    if op is ReduceOp.mean:
        how = "native" if support is Support.native else "emulated by sum: the sum is divided by the size"
        return f"{how}; float16 is divided before the sum, which could overflow"
    if support is Support.native:
        return "native"
    if op is ReduceOp.premul_sum:
        return "emulated by sum: each rank's values are multiplied before"
    return "emulated by all_gather: each rank reduces by itself"


def _dtype_choice(dtype: torch.dtype, form: Format | None, capability: Capability) -> str:
    moved = "moved as it is" if _is_native(dtype, capability) and dtype not in REAL_OF else "moved as bytes"
    if form is None:
        return f"{moved}; not reduced, for no format that would do is"
    if form.by_ranks:
        return f"{moved}, reduced by each rank itself after a gather: the communicator reduces no such format"
    if form.dtype is dtype:
        return f"{moved}, reduced as it is"
    kind = "pairs of " if dtype in REAL_OF else ""
    return f"{moved}, reduced as {kind}{str(form.dtype).removeprefix('torch.')}"
