"""Norms. Letters: B rows, T tokens, D hidden."""

from __future__ import annotations

from functools import partial

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_INPUTS = {
    "rms_norm": ("x", "weight"),
    "rms_norm__one_plus_w": ("x", "weight"),
    "rms_norm__add": ("x", "residual", "weight"),
    "layer_norm": ("x", "weight"),
}
_SHAPES = {
    "plain": (2, 5, 64),
    "one_value": (1, 1, 1),
    "no_tokens": (2, 0, 32),
    "no_rows": (0, 32),
    "odd": (3, 7, 33),
    "one_dim": (48,),
    "many_rows": (513, 16),
    "long_rows": (4, 4099),
    "large": (2, 65, 1024),
}
_16_BITS = ("bf16", "fp16")


def _inputs(
    draw: Draw, names: tuple[str, ...], shape: tuple[int, ...], std: float = 1.0, wide: tuple[str, ...] = ()
) -> Inputs:
    inputs: Inputs = {name: draw.normal(*shape, std=std, wide=name in wide) for name in names[:-1]}
    inputs["weight"] = draw.normal(shape[-1], std=0.3, mean=1.0, wide="weight" in wide)
    return inputs


def _with(draw: Draw, names: tuple[str, ...], shape: tuple[int, ...], **rest: float) -> Inputs:
    return {**_inputs(draw, names, shape), **rest}


def _equal(draw: Draw, names: tuple[str, ...]) -> Inputs:
    """Rows of one small value each: a variance that eps outweighs."""
    inputs = _inputs(draw, names, (3, 40), std=1e-3)
    for name in names[:-1]:
        inputs[name] = inputs[name][:, :1].expand(3, 40).contiguous()
    return inputs


def _zero(draw: Draw, names: tuple[str, ...]) -> Inputs:
    """Rows of nothing, which eps must save from a division by 0."""
    inputs = _inputs(draw, names, (3, 40))
    return {**inputs, **{name: inputs[name] * 0 for name in names[:-1]}}


def _one_large(draw: Draw, names: tuple[str, ...]) -> Inputs:
    """One value that is larger than the rest by far, whose square has no room in fp16."""
    inputs = _inputs(draw, names, (3, 40))
    inputs["x"][:, 7] = 1e4
    return inputs


def _with_bias(draw: Draw, shape: tuple[int, ...], wide: bool = False) -> Inputs:
    inputs = _inputs(draw, ("x", "weight"), shape, wide=("weight",) if wide else ())
    return {**inputs, "bias_D": draw.normal(shape[-1], wide=wide)}


def _wrong_weight(draw: Draw, names: tuple[str, ...]) -> Inputs:
    return {**_inputs(draw, names, (2, 8)), "weight": draw.normal(9)}


def _cases(op: str, names: tuple[str, ...]) -> list[Case]:
    # A row of equal values is zero without its mean; what rounding leaves of it is divided by sqrt(eps).
    centred = op == "layer_norm"
    left = 1e-5**-0.5 if centred else 0.0
    make = partial(_inputs, names=names)
    case = partial(Case, op=op, leaves=names)
    vectors = dict.fromkeys(names[:-1], Layout.sliced)
    forty, sixty_four = {"size": 40}, {"size": 64}
    return [
        *(
            case(
                name=name,
                build=partial(make, shape=shape),
                facts={"size": shape[-1]},
                repeated=name == "large",
                scale=left if name == "one_value" else 0.0,
                ill_conditioned=centred and name == "one_value",
            )
            for name, shape in _SHAPES.items()
        ),
        case(name="large_values", build=partial(make, shape=(3, 40), std=1e3), facts=forty),
        case(name="tiny_values", build=partial(make, shape=(3, 40), std=1e-4), facts=forty),
        case(name="one_large_value", build=partial(_one_large, names=names), facts=forty),
        case(name="equal_values", build=partial(_equal, names=names), facts=forty, scale=1e-3 * left),
        case(name="zeros", build=partial(_zero, names=names), facts=forty),
        case(name="large_eps", build=partial(_with, names=names, shape=(5, 64), eps=0.5), facts=sixty_four),
        *(
            case(
                name=layout.name,
                build=partial(make, shape=(4, 6, 64)),
                layouts=dict.fromkeys(names[:-1], layout),
                facts=sixty_four,
            )
            for layout in Layout
        ),
        case(
            name="stepped_weight",
            build=partial(make, shape=(4, 6, 64)),
            layouts={"weight": Layout.stepped},
            facts=sixty_four,
        ),
        Case(
            op=op,
            name="constant_weight",
            build=partial(make, shape=(4, 6, 64)),
            leaves=names[:-1],
            layouts=vectors,
            facts=sixty_four,
        ),
        Case(
            op=op,
            name="only_weight",
            build=partial(make, shape=(9, 64)),
            leaves=("weight",),
            facts=sixty_four,
        ),
        *(
            case(
                name=f"wide_{'_and_'.join(wide)}",
                build=partial(make, shape=(3, 5, 64), wide=wide),
                dtypes=_16_BITS,
                facts=sixty_four,
            )
            for wide in dict.fromkeys((("weight",), ("x",), names[:-1], names))
        ),
        Case(op=op, name="weight_that_does_not_fit", build=partial(_wrong_weight, names=names), invalid=True),
    ]


_BIAS = [
    Case(
        op="layer_norm",
        name=f"bias_{name}",
        build=partial(_with_bias, shape=shape, wide=name == "wide"),
        leaves=("x", "weight", "bias_D"),
        facts={"size": shape[-1]},
        dtypes=_16_BITS if name == "wide" else ("fp32", *_16_BITS),
    )
    for name, shape in {"plain": (2, 5, 64), "odd": (3, 33), "no_tokens": (2, 0, 32), "wide": (4, 48)}.items()
]

CASES = (*(case for op, names in _INPUTS.items() for case in _cases(op, names)), *_BIAS)
