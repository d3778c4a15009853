"""Matrices in few bits. Letters: N rows, D in, O out."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout
from portable.kernel.reference.quant import pack

_16_BITS = ("bf16", "fp16")
_CLEAR = 1e-2  # of a step: a number nearer to the middle of two codes may be rounded either way


def _int8(
    draw: Draw, rows: int = 5, num_in: int = 48, num_out: int = 24, std: float = 1.0, wide: bool = False
) -> Inputs:
    x = _away_from_ties(draw.normal(rows, num_in, std=std, wide=wide))
    return {
        "x": x,
        "weight": draw.whole(-127, 128, num_out, num_in).to(torch.int8),
        "scale": draw.uniform(num_out, low=1e-3, high=1e-2, wide=True),
    }


def _away_from_ties(x: Tensor) -> Tensor:
    """Clear the numbers that lie between two codes: there the rounding of a quotient decides."""
    if not x.numel():
        return x
    steps = x.double() / (x.double().abs().amax(-1, keepdim=True) / 127)
    return x.masked_fill(((steps - steps.floor()) - 0.5).abs() < _CLEAR, 0.0)


def _with_rows_of_zero(draw: Draw) -> Inputs:
    inputs = _int8(draw)
    inputs["x"][1::2] = 0.0
    return inputs


def _wrong_scale(draw: Draw) -> Inputs:
    return {**_int8(draw), "scale": draw.uniform(3, wide=True)}


def _int8_cases() -> list[Case]:
    case = partial(Case, op="int8_matmul")
    sizes: dict[str, dict[str, Any]] = {  # Any: numbers of _int8
        "plain": {},
        "one_value": {"rows": 1, "num_in": 1, "num_out": 1},
        "no_rows": {"rows": 0},
        "one_row": {"rows": 1},
        "odd": {"rows": 7, "num_in": 33, "num_out": 17},
        "many_rows": {"rows": 70, "num_in": 64},
        "long_sums": {"rows": 3, "num_in": 2085, "num_out": 5},
        "large": {"rows": 40, "num_in": 512, "num_out": 130},
        "large_values": {"std": 1e3},
        "tiny_values": {"std": 1e-3},
    }
    return [
        *(
            case(name=name, build=partial(_int8, **given), repeated=name == "large")
            for name, given in sizes.items()
        ),
        case(name="rows_of_zero", build=_with_rows_of_zero),
        *(
            case(name=layout.name, build=_int8, layouts={"x": layout, "weight": layout, "scale": layout})
            for layout in Layout
        ),
        case(name="wide", build=partial(_int8, wide=True), dtypes=_16_BITS),
        case(name="scales_that_do_not_fit", build=_wrong_scale, invalid=True),
    ]


def _packed(
    draw: Draw,
    rows: int = 5,
    num_in: int = 64,
    num_out: int = 24,
    bits: int = 4,
    group_size: int = 32,
    std: float = 1.0,
    whole_zeros: bool = False,
    wide: tuple[str, ...] = ("scales", "zeros"),
) -> Inputs:
    groups = num_in // group_size
    zeros = draw.uniform(num_out, groups, high=2.0**bits - 1, wide="zeros" in wide)
    return {
        "x": draw.normal(rows, num_in, std=std, wide="x" in wide),
        "codes": pack(draw.whole(0, 2**bits, num_out, num_in).to(torch.int32), bits),
        "scales": draw.uniform(num_out, groups, low=0.01, high=0.1, wide="scales" in wide),
        "zeros": zeros.round() if whole_zeros else zeros,
        "bits": bits,
        "group_size": group_size,
    }


def _wrong_groups(draw: Draw) -> Inputs:
    return {**_packed(draw), "group_size": 16}


def _wrong_bits(draw: Draw) -> Inputs:
    return {**_packed(draw), "bits": 9}


def _packed_cases() -> list[Case]:
    case = partial(Case, op="packed_matmul", leaves=("x",))

    def one(name: str, layouts: dict[str, Layout] | None = None, **given: Any) -> Case:  # Any: see _packed
        rest: dict[str, Any] = {
            field: given.pop(field) for field in ("dtypes", "leaves", "repeated") if field in given
        }
        facts = {"bits": given.get("bits", 4), "group_size": given.get("group_size", 32)}
        return case(name=name, build=partial(_packed, **given), facts=facts, layouts=layouts or {}, **rest)

    return [
        one("plain"),
        *(one(f"{bits}_bits", bits=bits) for bits in range(2, 9)),
        *(one(f"groups_of_{size}", group_size=size, num_in=128) for size in (8, 16, 64, 128)),
        one("groups_of_96", group_size=96, num_in=96),
        one("whole_zeros", whole_zeros=True),
        one("one_row", rows=1),
        one("no_rows", rows=0),
        one("one_column", num_out=1),
        one("odd", rows=7, num_in=96, num_out=17, bits=3),
        one("many_rows", rows=70),
        one("large", rows=20, num_in=512, num_out=130, group_size=128, repeated=True),
        one("one_row_large", rows=1, num_in=1024, num_out=130, group_size=128),
        one("large_values", std=1e2),
        one("tiny_values", std=1e-3),
        *(one(layout.name, dict.fromkeys(("x", "codes", "scales", "zeros"), layout)) for layout in Layout),
        one("without_gradients", leaves=()),
        one("narrow_scales", wide=(), dtypes=_16_BITS),
        one("wide_x", wide=("x", "scales", "zeros"), dtypes=_16_BITS),
        Case(op="packed_matmul", name="groups_that_do_not_fit", build=_wrong_groups, invalid=True),
        Case(op="packed_matmul", name="nine_bits", build=_wrong_bits, invalid=True),
    ]


def _nf4(
    draw: Draw,
    shape: tuple[int, ...] = (6, 64),
    block_size: int = 64,
    scale: float = 1.0,
    wide: bool = False,
    narrow_maxima: bool = False,
) -> Inputs:
    count = math.prod(shape)
    return {
        "codes": draw.whole(0, 256, -(-count // 2)).to(torch.uint8),
        "absmax": draw.uniform(-(-count // block_size), low=0.1 * scale, high=scale, wide=not narrow_maxima),
        "shape": shape,
        "block_size": block_size,
        "dtype": torch.float32 if wide else draw.dtype,
    }


def _fewer_codes(draw: Draw) -> Inputs:
    inputs = _nf4(draw)
    return {**inputs, "codes": inputs["codes"][:-1]}


def _nf4_cases() -> list[Case]:
    def one(name: str, layouts: dict[str, Layout] | None = None, **given: Any) -> Case:  # Any: see _nf4
        rest: dict[str, Any] = {field: given.pop(field) for field in ("dtypes", "repeated") if field in given}
        facts = {"block_size": given.get("block_size", 64)}
        build = partial(_nf4, **given)
        return Case(op="nf4_dequantize", name=name, build=build, facts=facts, layouts=layouts or {}, **rest)

    return [
        one("plain"),
        one("one_value", shape=(1,), block_size=1),
        one("no_values", shape=(0, 8)),
        one("odd", shape=(7, 33)),
        one("odd_block", shape=(5, 21), block_size=3),
        one("one_block", shape=(3, 5), block_size=64),
        one("block_of_128", shape=(4, 128), block_size=128),
        one("three_dims", shape=(2, 3, 64)),
        one("large", shape=(130, 256), repeated=True),
        one("large_values", scale=1e4),
        one("tiny_values", scale=1e-4),
        *(
            one(layout.name, {"codes": layout, "absmax": layout})
            for layout in (Layout.sliced, Layout.stepped, Layout.expanded)
        ),
        one("wide", wide=True, dtypes=_16_BITS),
        one("narrow_maxima", narrow_maxima=True, dtypes=_16_BITS),
        Case(op="nf4_dequantize", name="fewer_codes_than_values", build=_fewer_codes, invalid=True),
    ]


CASES = (*_int8_cases(), *_packed_cases(), *_nf4_cases())
