"""Linear layers, plain and with a low-rank update. Letters: I in, O out, R rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_LEAVES = ("x", "weight", "lora_a", "lora_b")
_PLAIN = ("x", "weight")
_LORA = ("lora_a", "lora_b")
_16_BITS = ("bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    tokens: tuple[int, ...] = (2, 5)
    num_in: int = 32
    num_out: int = 24
    rank: int = 4
    bias: bool = False
    std: float = 1.0
    update: float = 1.0
    wide: tuple[str, ...] = ()

    def plain(self, draw: Draw) -> Inputs:
        inputs: Inputs = {
            "x": draw.normal(*self.tokens, self.num_in, std=self.std, wide="x" in self.wide),
            "weight": self._matrix(draw, "weight", self.num_out, self.num_in),
        }
        return {**inputs, "bias_O": draw.normal(self.num_out)} if self.bias else inputs

    def build(self, draw: Draw) -> Inputs:
        plain = self.plain(draw)
        return {
            "x": plain.pop("x"),
            "weight": plain.pop("weight"),
            "lora_a": self._matrix(draw, "lora_a", self.rank, self.num_in),
            "lora_b": self._matrix(draw, "lora_b", self.num_out, self.rank) * self.update,
            "scale": 2.0,
            **plain,
        }

    def _matrix(self, draw: Draw, name: str, rows: int, columns: int) -> Any:  # a tensor
        return draw.normal(rows, columns, std=columns**-0.5, wide=name in self.wide)


_LAYERS = {
    "plain": _Layer(),
    "one_value": _Layer(tokens=(1,), num_in=1, num_out=1, rank=1),
    "no_tokens": _Layer(tokens=(0,)),
    "one_dim": _Layer(tokens=()),
    "odd": _Layer(tokens=(3, 7), num_in=33, num_out=17, rank=3),
    "rank_of_one": _Layer(rank=1),
    "rank_above_width": _Layer(rank=40),
    "large": _Layer(tokens=(130,), num_in=256, num_out=200, rank=16),
    "bias": _Layer(bias=True),
    "large_values": _Layer(std=1e3),
    "tiny_values": _Layer(std=1e-3),
    "untrained": _Layer(update=0.0),
}


def _case(name: str, layer: _Layer, **rest: Any) -> Case:  # Any: fields of Case
    leaves = (*_LEAVES, "bias_O") if layer.bias else _LEAVES
    given: dict[str, Any] = {"leaves": leaves, "facts": {"rank": layer.rank}, **rest}  # Any: as above
    return Case(op="lora_linear", name=name, build=layer.build, **given)


def _plain(name: str, layer: _Layer, **rest: Any) -> Case:  # Any: fields of Case
    facts = {"in_features": layer.num_in, "out_features": layer.num_out}
    leaves = (*_PLAIN, "bias_O") if layer.bias else _PLAIN
    given: dict[str, Any] = {"leaves": leaves, "facts": facts, **rest}  # Any: as above
    return Case(op="linear", name=name, build=layer.plain, **given)


def _wrong_width(draw: Draw) -> Inputs:
    return {**_Layer().plain(draw), "weight": draw.normal(24, 31)}


def _wrong_rank(draw: Draw) -> Inputs:
    return {**_Layer().build(draw), "lora_b": draw.normal(24, 5)}


_OF_THE_UPDATE = ("rank_of_one", "rank_above_width", "untrained")

CASES = (
    *(
        _plain(name, layer, repeated=name == "large")
        for name, layer in _LAYERS.items()
        if name not in _OF_THE_UPDATE
    ),
    *(_plain(layout.name, _Layer(), layouts=dict.fromkeys(_PLAIN, layout)) for layout in Layout),
    _plain("weight_swapped", _Layer(), layouts={"weight": Layout.swapped}),
    _plain("constant_weight", _Layer(), leaves=("x",)),
    _plain("first_layer", _Layer(bias=True), leaves=("weight", "bias_O")),
    _plain("constant_bias", _Layer(bias=True), leaves=_PLAIN),
    *(
        _plain(f"wide_{'_'.join(wide)}", _Layer(wide=wide), dtypes=_16_BITS)
        for wide in (("x",), ("weight",), _PLAIN)
    ),
    Case(op="linear", name="widths_that_differ", build=_wrong_width, invalid=True),
    *(_case(name, layer, repeated=name == "large") for name, layer in _LAYERS.items()),
    *(_case(layout.name, _Layer(), layouts=dict.fromkeys(_LEAVES, layout)) for layout in Layout),
    _case("weight_swapped", _Layer(), layouts={"weight": Layout.swapped}),
    _case("constant_weight", _Layer(), leaves=("x", *_LORA)),
    _case("constant_weight_first_layer", _Layer(), leaves=_LORA),
    _case("only_x", _Layer(), leaves=("x",)),
    _case("constant_bias", _Layer(bias=True), leaves=("x", *_LORA)),
    *(
        _case(f"wide_{'_'.join(wide)}", _Layer(wide=wide), dtypes=_16_BITS)
        for wide in (_LORA, ("x",), ("weight",), ("x", *_LORA), _LEAVES)
    ),
    Case(op="lora_linear", name="ranks_that_differ", build=_wrong_rank, invalid=True),
)
