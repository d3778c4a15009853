"""Rotary position embedding.

Letters: B rows, T tokens, N query heads, K key heads, H head_dim, R rotated dims.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_LEAVES = ("q", "k")
_16_BITS = ("bf16", "fp16")


@dataclass(frozen=True, slots=True)
class _Shape:
    rows: int = 2
    tokens: int = 5
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    rotary_dim: int = 16

    @property
    def facts(self) -> dict[str, int]:
        return {"head_dim": self.head_dim, "rotary_dim": self.rotary_dim}


_SHAPES = {
    "plain": _Shape(),
    "one_token": _Shape(1, 1, 1, 1, 2, 2),
    "no_tokens": _Shape(tokens=0),
    "no_rows": _Shape(rows=0),
    "odd": _Shape(3, 7, 3, 1, 22, 22),
    "many_heads": _Shape(1, 3, 16, 16, 8, 8),
    "partial": _Shape(head_dim=24, rotary_dim=8),
    "partial_by_two": _Shape(head_dim=10, rotary_dim=2),
    "head_dim_128": _Shape(1, 3, 2, 1, 128, 128),
    "head_dim_80": _Shape(1, 3, 2, 1, 80, 80),
    "large": _Shape(2, 130, 4, 2, 64, 64),
}


def _inputs(
    draw: Draw,
    shape: _Shape,
    halves: bool,
    wide: tuple[str, ...] = (),
    wide_tables: bool = True,
    std: float = 1.0,
    start: int = 0,
) -> Inputs:
    """Positions differ from row to row; ``start`` is the first."""
    positions = torch.arange(shape.tokens, dtype=torch.float64) + start
    pairs = torch.arange(shape.rotary_dim // 2, dtype=torch.float64)
    angles = positions[:, None] * 10000.0 ** (-2 * pairs / shape.rotary_dim)
    angles = torch.cat((angles, angles), -1) if halves else angles.repeat_interleave(2, -1)
    angles = angles + 0.1 * torch.arange(shape.rows, dtype=torch.float64)[:, None, None]
    return {
        "q": draw.normal(shape.rows, shape.tokens, shape.heads, shape.head_dim, std=std, wide="q" in wide),
        "k": draw.normal(shape.rows, shape.tokens, shape.kv_heads, shape.head_dim, std=std, wide="k" in wide),
        "cos": draw.rounded(angles.cos(), wide=wide_tables),
        "sin": draw.rounded(angles.sin(), wide=wide_tables),
    }


def _odd_tables(draw: Draw, halves: bool) -> Inputs:
    inputs = _inputs(draw, _Shape(), halves)
    return {**inputs, "cos": inputs["cos"][..., :7], "sin": inputs["sin"][..., :7]}


def _cases(op: str, halves: bool) -> list[Case]:
    make = partial(_inputs, halves=halves)
    case = partial(Case, op=op, leaves=_LEAVES)
    plain = _Shape()
    tables: dict[str, Layout] = dict.fromkeys(("cos", "sin"), Layout.stepped)
    return [
        *(
            case(name=name, build=partial(make, shape=shape), facts=shape.facts, repeated=name == "large")
            for name, shape in _SHAPES.items()
        ),
        case(name="far_positions", build=partial(make, shape=plain, start=100_000), facts=plain.facts),
        case(name="large_values", build=partial(make, shape=plain, std=1e4 / 8), facts=plain.facts),
        *(
            case(
                name=layout.name,
                build=partial(make, shape=plain),
                layouts=dict.fromkeys(_LEAVES, layout),
                facts=plain.facts,
            )
            for layout in Layout
        ),
        case(
            name="one_table_for_all_rows",
            build=partial(make, shape=plain),
            layouts=dict.fromkeys(("cos", "sin"), Layout.expanded),
            facts=plain.facts,
        ),
        case(name="stepped_tables", build=partial(make, shape=plain), layouts=tables, facts=plain.facts),
        Case(op=op, name="only_q", build=partial(make, shape=plain), leaves=("q",), facts=plain.facts),
        case(
            name="narrow_tables",
            build=partial(make, shape=plain, wide_tables=False),
            facts=plain.facts,
            dtypes=_16_BITS,
        ),
        case(
            name="wide_q_and_k",
            build=partial(make, shape=plain, wide=_LEAVES),
            facts=plain.facts,
            dtypes=_16_BITS,
        ),
        case(
            name="wide_q", build=partial(make, shape=plain, wide=("q",)), facts=plain.facts, dtypes=_16_BITS
        ),
        Case(
            op=op, name="odd_number_of_rotated_dims", build=partial(_odd_tables, halves=halves), invalid=True
        ),
    ]


CASES = (*_cases("rope__half", True), *_cases("rope__interleave", False))
