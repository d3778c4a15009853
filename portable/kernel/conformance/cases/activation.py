"""Gated activations."""

from __future__ import annotations

from functools import partial

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_LEAVES = ("gate", "up")
_SHAPES = {
    "plain": (2, 5, 64),
    "one_value": (1,),
    "no_tokens": (2, 0, 32),
    "odd": (3, 7, 33),
    "large": (65, 1030),
}
_16_BITS = ("bf16", "fp16")


def _inputs(
    draw: Draw, shape: tuple[int, ...], std: float = 1.0, wide: tuple[str, ...] = (), up_std: float = 1.0
) -> Inputs:
    return {
        "gate": draw.normal(*shape, std=std, wide="gate" in wide),
        "up": draw.normal(*shape, std=up_std, wide="up" in wide),
    }


def _far(draw: Draw) -> Inputs:
    """Gates where the activation is 0 or the identity, and where a naive exp overflows."""
    gate = draw.rounded(draw.normal(4, 5, wide=True).sign().double() * 1e4)
    return {"gate": gate, "up": draw.normal(4, 5)}


def _unlike(draw: Draw) -> Inputs:
    return {"gate": draw.normal(3, 8), "up": draw.normal(3, 9)}


def _cases(op: str) -> list[Case]:
    case = partial(Case, op=op, leaves=_LEAVES)
    return [
        *(
            case(
                name=name,
                build=partial(_inputs, shape=shape),
                facts={"size": shape[-1]},
                repeated=name == "large",
            )
            for name, shape in _SHAPES.items()
        ),
        case(name="wide_spread", build=partial(_inputs, shape=(4, 64), std=8.0)),
        case(name="tiny_values", build=partial(_inputs, shape=(4, 64), std=1e-4)),
        case(name="far_from_zero", build=_far),
        *(
            case(
                name=layout.name,
                build=partial(_inputs, shape=(4, 6, 32)),
                layouts=dict.fromkeys(_LEAVES, layout),
            )
            for layout in Layout
        ),
        case(name="gate_swapped", build=partial(_inputs, shape=(6, 32)), layouts={"gate": Layout.swapped}),
        Case(op=op, name="constant_up", build=partial(_inputs, shape=(6, 32)), leaves=("gate",)),
        Case(op=op, name="constant_gate", build=partial(_inputs, shape=(6, 32)), leaves=("up",)),
        *(
            case(
                name=f"wide_{'_and_'.join(wide)}",
                build=partial(_inputs, shape=(5, 32), wide=wide),
                dtypes=_16_BITS,
            )
            for wide in (("gate",), ("up",), _LEAVES)
        ),
        Case(op=op, name="shapes_that_differ", build=_unlike, invalid=True),
    ]


CASES = tuple(case for op in ("swiglu", "geglu__erf", "geglu__tanh") for case in _cases(op))
