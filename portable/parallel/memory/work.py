"""Operators as recomputation sees them: which are dear, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

# pyright: reportPrivateUsage=false
# Torch hands operators to dispatch modes, but names neither their type nor their schema in public.
Op = torch._ops.OpOverload
_MATMULS = ("mm", "addmm", "bmm", "baddbmm", "_grouped_mm", "_scaled_mm", "_scaled_grouped_mm")
_COLLECTIVES = ("c10d", "_c10d_functional", "c10d_functional")
_FLOPS_PER_BYTE = 100.0  # what accelerators multiply in 16 bits while they read or write a byte


def is_dear(op: Op) -> bool:
    """Whether ``op`` multiplies matrices or is an attention, by its name: devices have kernels of their own.

    What writes into a tensor that it is given is not: others write there, too.
    """
    name = _name(op)
    return can_be_kept(op) and (name in _MATMULS or "matmul" in name or "linear" in name or is_attention(op))


def is_attention(op: Op) -> bool:
    """Whether ``op`` is a fused attention."""
    return "attention" in _name(op)


def can_be_kept(op: Op) -> bool:
    """Whether the result of ``op`` is a value of its own, that its inputs alone decide."""
    return not (op._schema.is_mutable or _is_view(op) or op.namespace in _COLLECTIVES)


def tensors_in(values: Any) -> Iterator[Tensor]:  # Any: what operators take and return
    """Yield the tensors of a nest of values."""
    yield from (value for value in tree_leaves(values) if isinstance(value, Tensor))


def num_bytes(values: Any) -> int:  # Any: as above
    """Return the size of a nest's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(values))


def work(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> float:
    """Return what ``op`` costs, in floating-point operations: those it makes, or could be made while its
    operands are read and its results written, whichever is more (Williams et al. 2009, the roofline).

    It depends on shapes alone, so ranks and runs agree.
    """
    if _is_view(op):
        return 0.0
    moved = _FLOPS_PER_BYTE * (num_bytes((args, kwargs)) + num_bytes(out))
    if is_attention(op):
        q, k, v, *_ = tensors_in(args)
        return max(moved, float(sdpa_flop_count(q.shape, k.shape, v.shape))) if q.ndim == 4 else moved
    count = flop_registry.get(op.overloadpacket)
    return moved if count is None else max(moved, float(count(*args, **kwargs, out_val=out)))


def _is_view(op: Op) -> bool:
    return not op._schema.is_mutable and any(result.alias_info is not None for result in op._schema.returns)


def _name(op: Op) -> str:
    return op.overloadpacket.__name__
