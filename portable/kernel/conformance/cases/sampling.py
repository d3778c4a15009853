"""Which tokens a sampler may draw. Letters: N rows, V vocabulary."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_16_BITS = ("bf16", "fp16")
_OFF = 1.0  # of top_p


def _inputs(
    draw: Draw,
    rows: int = 5,
    vocab_size: int = 40,
    top_k: int = 0,
    nucleus: int = 0,
    std: float = 2.0,
    wide: bool = False,
) -> Inputs:
    """Keep ``top_k`` tokens and of these the ``nucleus`` best by their probability; 0 is off for both."""
    return _cut(draw.normal(rows, vocab_size, std=std, wide=wide), top_k, nucleus)


def _cut(logits: Tensor, top_k: int, nucleus: int) -> Inputs:
    rows = len(logits)
    return {
        "logits": logits,
        "top_k": torch.full((rows,), top_k),
        "top_p": _threshold(logits, top_k, nucleus) if nucleus else torch.full((rows,), _OFF),
    }


def _threshold(logits: Tensor, top_k: int, nucleus: int) -> Tensor:
    """Return the top_p that the ``nucleus``-th best token crosses half-way: rounding cannot move it."""
    ranked = logits.double().sort(dim=-1, descending=True).values
    kept = ranked[:, :top_k] if top_k else ranked
    reached = kept.softmax(-1).cumsum(-1)
    before = reached[:, nucleus - 2] if nucleus > 1 else torch.zeros(len(logits), dtype=torch.float64)
    return ((before + reached[:, nucleus - 1]) / 2).float()


def _every_row_otherwise(draw: Draw) -> Inputs:
    logits = draw.normal(4, 40, std=2.0)
    given = [_cut(logits[row : row + 1], *cut) for row, cut in enumerate(((0, 0), (3, 0), (0, 4), (7, 5)))]
    return {
        "logits": logits,
        "top_k": torch.cat([row["top_k"] for row in given]),
        "top_p": torch.cat([row["top_p"] for row in given]),
    }


def _equal_logits(draw: Draw, top_k: int, nucleus: int) -> Inputs:
    """Many logits have the same few values: who of them is kept is a matter of their place."""
    return _cut(draw.rounded(draw.whole(0, 3, 5, 40).double()), top_k, nucleus)


def _masked(draw: Draw, top_k: int, nucleus: int) -> Inputs:
    logits = draw.normal(5, 40, std=2.0)
    logits[:, ::3] = -float("inf")
    return _cut(logits, top_k, nucleus)


def _rows_of_nothing(draw: Draw) -> Inputs:
    inputs = _inputs(draw, top_k=3)
    inputs["logits"][1] = -float("inf")
    return inputs


def _too_few_ks(draw: Draw) -> Inputs:
    return {**_inputs(draw), "top_k": torch.zeros(2, dtype=torch.int64)}


_CUTS = {"off": (0, 0), "top_k": (7, 0), "top_p": (0, 5), "both": (9, 4)}
_SIZES = {
    "no_rows": {"rows": 0},
    "one_row": {"rows": 1, "top_k": 5, "nucleus": 3},
    "vocabulary_of_one": {"vocab_size": 1, "top_k": 1},
    "odd": {"rows": 7, "vocab_size": 33, "top_k": 6, "nucleus": 2},
    "large": {"rows": 6, "vocab_size": 5003, "top_k": 50, "nucleus": 20},
    "large_vocabulary": {"rows": 2, "vocab_size": 33_000, "nucleus": 30, "wide": 1},
}


def _case(name: str, build: partial[Inputs], vocab_size: int = 40, **rest: object) -> Case:
    return Case(op="top_k_top_p", name=name, build=build, facts={"vocab_size": vocab_size}, **rest)  # pyright: ignore


def _cases() -> list[Case]:
    make = partial
    both = {"top_k": 9, "nucleus": 4}
    return [
        *(_case(name, make(_inputs, top_k=k, nucleus=n)) for name, (k, n) in _CUTS.items()),
        *(
            _case(name, make(_inputs, **given), given.get("vocab_size", 40), repeated=name == "large")
            for name, given in _SIZES.items()
        ),
        _case("only_the_best", make(_inputs, top_k=1)),
        _case("nucleus_of_one", make(_inputs, nucleus=1)),
        _case("top_k_is_the_vocabulary", make(_inputs, top_k=40)),
        _case("top_k_above_the_vocabulary", make(_inputs, top_k=41)),
        _case("every_row_otherwise", make(_every_row_otherwise)),
        *(
            _case(f"equal_logits_{name}", make(_equal_logits, top_k=k, nucleus=n))
            for name, (k, n) in _CUTS.items()
        ),
        *(_case(f"masked_{name}", make(_masked, top_k=k, nucleus=n)) for name, (k, n) in _CUTS.items()),
        _case("rows_of_nothing", make(_rows_of_nothing)),
        _case("large_logits", make(_inputs, std=300.0, top_k=5)),
        *(
            _case(
                layout.name,
                make(_inputs, **both),
                layouts={"logits": layout, "top_k": layout, "top_p": layout},
            )
            for layout in Layout
        ),
        _case("wide", make(_inputs, wide=True, **both), dtypes=_16_BITS),
        Case(op="top_k_top_p", name="fewer_ks_than_rows", build=_too_few_ks, invalid=True),
    ]


CASES = tuple(_cases())
