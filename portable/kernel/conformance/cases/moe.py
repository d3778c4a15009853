"""Mixture of experts. Letters: N tokens, E experts, K experts a token, M = N * K rows, D in, F out."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_16_BITS = ("bf16", "fp16")
_CLEAR = 1e-4  # scores that differ by less may change places by rounding
_GATES = ("moe_gate__softmax", "moe_gate__sigmoid")
_SIZES = {  # tokens, experts, experts a token
    "plain": (5, 8, 2),
    "one_token": (1, 4, 1),
    "no_tokens": (0, 8, 2),
    "one_expert": (5, 1, 1),
    "all_experts": (5, 6, 6),
    "odd": (13, 7, 3),
    "many_experts": (9, 128, 8),
    "large": (300, 64, 6),
}


def _gate(
    draw: Draw, tokens: int, experts: int, top_k: int, std: float = 1.0, wide: bool = False, **rest: Any
) -> Inputs:
    """Draw logits at random; in 16 bits some are equal, which must not change who is chosen."""
    return {"logits": draw.normal(tokens, experts, std=std, wide=wide), "top_k": top_k, **rest}


def _clear_gate(draw: Draw, tokens: int, experts: int, top_k: int, bias: bool = False, **rest: Any) -> Inputs:
    """Draw logits whose scores, with a bias or without, differ by more than rounding explains."""
    order = torch.stack([draw.order(experts) for _ in range(tokens)]) if tokens else torch.zeros(0, experts)
    logits = draw.rounded((order.double() - experts / 2) * (6 / experts))
    inputs: Inputs = {"logits": logits, "top_k": top_k, **rest}
    while bias:
        inputs["bias_E"] = draw.normal(experts, std=0.3, wide=True)
        scores = (logits.double().sigmoid() + inputs["bias_E"].double()).sort(-1).values
        if experts == 1 or not tokens or float(scores.diff(dim=-1).min()) > _CLEAR:
            break
    return inputs


def _equal_logits(draw: Draw) -> Inputs:
    return {"logits": draw.normal(4, 9, std=0.0, mean=0.5), "top_k": 3}


def _gate_cases(op: str) -> list[Case]:
    sigmoid = op == "moe_gate__sigmoid"
    make = _clear_gate if sigmoid else _gate
    facts = {"num_experts": 8, "top_k": 2}
    plain = partial(make, tokens=5, experts=8, top_k=2)
    case = partial(Case, op=op, leaves=("logits",))
    cases = [
        *(
            case(
                name=name,
                build=partial(make, tokens=tokens, experts=experts, top_k=top_k),
                facts={"num_experts": experts, "top_k": top_k},
                repeated=name == "large",
            )
            # Sigmoids of many experts lie too near to each other to be told apart in every format.
            for name, (tokens, experts, top_k) in _SIZES.items()
        ),
        case(name="not_renormalized", build=partial(plain, renormalize=False), facts=facts),
        case(name="equal_logits", build=_equal_logits),
        *(case(name=layout.name, build=plain, layouts={"logits": layout}, facts=facts) for layout in Layout),
        Case(op=op, name="without_gradients", build=plain, facts=facts),
        Case(
            op=op, name="more_than_there_are", build=partial(make, tokens=5, experts=4, top_k=5), invalid=True
        ),
    ]
    if sigmoid:
        biased = partial(_clear_gate, tokens=5, experts=8, top_k=2, bias=True)
        return [
            *cases,
            case(name="bias", build=biased, facts=facts),
            case(name="bias_scale", build=partial(biased, scale=2.5), facts=facts),
            case(
                name="bias_not_renormalized", build=partial(biased, renormalize=False, scale=2.5), facts=facts
            ),
            case(name="bias_stepped", build=biased, layouts={"bias_E": Layout.stepped}, facts=facts),
        ]
    return [
        *cases,
        case(name="large_logits", build=partial(plain, std=12.0), facts=facts),
        case(name="wide", build=partial(plain, wide=True), facts=facts, dtypes=_16_BITS),
    ]


def _choices(draw: Draw, tokens: int, experts: int, top_k: int) -> Tensor:
    """Return different experts for each token."""
    chosen = [draw.order(experts)[:top_k] for _ in range(tokens)]
    return torch.stack(chosen) if chosen else torch.zeros(0, top_k, dtype=torch.int64)


def _permute(
    draw: Draw, tokens: int, experts: int, top_k: int, width: int = 16, wide: bool = False
) -> Inputs:
    return {
        "x": draw.normal(tokens, width, wide=wide),
        "experts": _choices(draw, tokens, experts, top_k),
        "num_experts": experts,
    }


def _one_for_all(draw: Draw) -> Inputs:
    return {"x": draw.normal(9, 16), "experts": torch.full((9, 1), 3), "num_experts": 5}


def _fewer_choices(draw: Draw) -> Inputs:
    return {**_permute(draw, 5, 8, 2), "x": draw.normal(6, 16)}


def _permute_cases() -> list[Case]:
    facts = {"num_experts": 8, "top_k": 2}
    plain = partial(_permute, tokens=5, experts=8, top_k=2)
    case = partial(Case, op="moe_permute", leaves=("x",))
    return [
        *(
            case(
                name=name,
                build=partial(_permute, tokens=tokens, experts=experts, top_k=top_k),
                facts={"num_experts": experts, "top_k": top_k},
                repeated=name == "large",
            )
            for name, (tokens, experts, top_k) in _SIZES.items()
        ),
        case(name="one_expert_for_all", build=_one_for_all),
        case(name="one_value", build=partial(plain, width=1), facts=facts),
        case(name="odd_width", build=partial(plain, width=33), facts=facts),
        *(
            case(name=layout.name, build=plain, layouts={"x": layout, "experts": layout}, facts=facts)
            for layout in Layout
        ),
        case(name="wide", build=partial(plain, wide=True), facts=facts, dtypes=_16_BITS),
        Case(op="moe_permute", name="fewer_choices_than_rows", build=_fewer_choices, invalid=True),
    ]


def _unpermute(
    draw: Draw,
    tokens: int,
    top_k: int,
    width: int = 16,
    wide: tuple[str, ...] = ("weights",),
    std: float = 1.0,
) -> Inputs:
    return {
        "y": draw.normal(tokens * top_k, width, std=std, wide="y" in wide),
        "slots": draw.order(tokens * top_k).view(tokens, top_k),
        "weights": draw.uniform(tokens, top_k, low=0.05, wide="weights" in wide),
    }


def _fewer_weights(draw: Draw) -> Inputs:
    return {**_unpermute(draw, 5, 2), "weights": draw.uniform(5, 1, wide=True)}


def _unpermute_cases() -> list[Case]:
    plain = partial(_unpermute, tokens=5, top_k=2)
    case = partial(Case, op="moe_unpermute", leaves=("y", "weights"))
    both = ("y", "weights")
    return [
        *(
            case(
                name=name,
                build=partial(_unpermute, tokens=tokens, top_k=top_k),
                facts={"top_k": top_k},
                repeated=name == "large",
            )
            for name, (tokens, _, top_k) in _SIZES.items()
        ),
        case(name="many_terms", build=partial(_unpermute, tokens=4, top_k=64)),
        case(name="odd_width", build=partial(plain, width=33)),
        case(name="large_values", build=partial(plain, std=1e3)),
        *(
            case(name=layout.name, build=plain, layouts={"y": layout, "weights": layout, "slots": layout})
            for layout in Layout
            if layout is not Layout.expanded  # two tokens never have one row
        ),
        case(name="weights_expanded", build=plain, layouts={"weights": Layout.expanded}),
        Case(op="moe_unpermute", name="constant_weights", build=plain, leaves=("y",)),
        case(name="narrow_weights", build=partial(plain, wide=()), dtypes=_16_BITS),
        case(name="wide", build=partial(plain, wide=both), dtypes=_16_BITS),
        Case(op="moe_unpermute", name="fewer_weights_than_slots", build=_fewer_weights, invalid=True),
    ]


def _grouped(
    draw: Draw,
    counts: tuple[int, ...],
    num_in: int = 16,
    num_out: int = 24,
    wide: tuple[str, ...] = (),
    std: float = 1.0,
) -> Inputs:
    return {
        "x": draw.normal(sum(counts), num_in, std=std, wide="x" in wide),
        "weight": draw.normal(len(counts), num_in, num_out, std=num_in**-0.5, wide="weight" in wide),
        "counts": torch.tensor(counts),
    }


def _wrong_counts(draw: Draw) -> Inputs:
    return {**_grouped(draw, (3, 4)), "counts": torch.tensor([3, 5])}


def _grouped_cases() -> list[Case]:
    counts = {
        "plain": (3, 1, 4, 2),
        "one_row": (1,),
        "no_rows": (0, 0, 0),
        "empty_experts": (0, 5, 0, 0, 2, 0),
        "one_expert": (7,),
        "one_expert_has_all": (0, 9, 0),
        "odd": (13, 1, 5, 27, 3),
    }
    plain = partial(_grouped, counts=counts["plain"])
    facts = {"num_experts": 4}
    leaves = ("x", "weight")
    case = partial(Case, op="grouped_matmul", leaves=leaves)
    return [
        *(
            case(name=name, build=partial(_grouped, counts=sizes), facts={"num_experts": len(sizes)})
            for name, sizes in counts.items()
        ),
        case(name="one_value", build=partial(_grouped, counts=(1, 2), num_in=1, num_out=1)),
        case(name="odd_width", build=partial(plain, num_in=33, num_out=17), facts=facts),
        case(
            name="large",
            build=partial(_grouped, counts=(40, 0, 129, 31), num_in=128, num_out=96),
            repeated=True,
        ),
        case(name="large_values", build=partial(plain, std=1e3), facts=facts),
        *(
            case(name=layout.name, build=plain, layouts=dict.fromkeys(leaves, layout), facts=facts)
            for layout in Layout
        ),
        case(name="weight_swapped", build=plain, layouts={"weight": Layout.swapped}, facts=facts),
        Case(op="grouped_matmul", name="constant_weight", build=plain, leaves=("x",), facts=facts),
        Case(op="grouped_matmul", name="only_weight", build=plain, leaves=("weight",), facts=facts),
        *(
            case(
                name=f"wide_{'_and_'.join(wide)}",
                build=partial(plain, wide=wide),
                facts=facts,
                dtypes=_16_BITS,
            )
            for wide in (("x",), ("weight",), leaves)
        ),
        Case(op="grouped_matmul", name="counts_that_do_not_add_up", build=_wrong_counts, invalid=True),
    ]


CASES = (
    *(case for op in _GATES for case in _gate_cases(op)),
    *_permute_cases(),
    *_unpermute_cases(),
    *_grouped_cases(),
)
