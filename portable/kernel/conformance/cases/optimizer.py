"""Steps of AdamW and Muon, which write into their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_16_BITS = ("bf16", "fp16")
_ADAMW = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
_STATE = ("exp_avgs", "exp_avg_sqs")
_SHAPES = ((3, 5), (7,), (4, 2, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adamw:
    """Parameters of ``shapes``; moments are float32 unless ``narrow_state``."""

    shapes: tuple[tuple[int, ...], ...] = _SHAPES
    step: int = 10
    grad_std: float = 0.1
    param_std: float = 1.0
    first: bool = False
    narrow_state: bool = False
    wide: tuple[str, ...] = ()
    change: tuple[tuple[str, float], ...] = ()

    def build(self, draw: Draw) -> Inputs:
        wide_state = not self.narrow_state
        moment = 0.0 if self.first else self.grad_std
        squares = [draw.normal(*shape, std=moment, wide=wide_state).square() for shape in self.shapes]
        return {
            "params": self._normal(draw, self.param_std, "params" in self.wide),
            "grads": self._normal(draw, self.grad_std, "grads" in self.wide),
            "exp_avgs": self._normal(draw, moment, wide_state),
            "exp_avg_sqs": squares,
            "step": self.step,
            **_ADAMW,
            **dict(self.change),
        }

    def _normal(self, draw: Draw, std: float, wide: bool) -> list[Tensor]:
        return [draw.normal(*shape, std=std, wide=wide) for shape in self.shapes]


_A = _Adamw
_ADAMW_STEPS = {
    "plain": _A(),
    "first_step": _A(step=1, first=True),
    "second_step": _A(step=2),
    "late_step": _A(step=10_000),
    "params_of_zero": _A(param_std=0.0, step=1, first=True),
    "no_decay": _A(change=(("weight_decay", 0.0),)),
    "strong_decay": _A(change=(("weight_decay", 5.0),)),
    "large_eps": _A(change=(("eps", 1.0),)),
    "no_momentum": _A(change=(("beta1", 0.0),)),
    "large_grads": _A(grad_std=1e3),
    "tiny_grads": _A(grad_std=1e-4),
    "no_grads": _A(grad_std=0.0),
    "no_tensors": _A(shapes=()),
    "one_value": _A(shapes=((1,), ())),
    "no_values": _A(shapes=((0, 4), (3, 5))),
    "odd": _A(shapes=((33, 17), (1,), (129,))),
    "many_tensors": _A(shapes=((5, 3),) * 40),
    "large": _A(shapes=((65, 130), (257,))),
}
_ALL = ("params", "grads", *_STATE)


def _adamw(name: str, problem: _Adamw, **rest: Any) -> Case:  # Any: fields of Case
    return Case(op="adamw", name=name, build=problem.build, **rest)


def _missing_grad(draw: Draw) -> Inputs:
    inputs = _A().build(draw)
    return {**inputs, "grads": inputs["grads"][:-1]}


_ADAMW_CASES = [
    *(_adamw(name, problem, repeated=name == "large") for name, problem in _ADAMW_STEPS.items()),
    *(
        _adamw(layout.name, _A(), layouts=dict.fromkeys(_ALL, layout))
        for layout in Layout
        if layout is not Layout.expanded  # nobody may write where several values share a place
    ),
    _adamw("grads_expanded", _A(), layouts={"grads": Layout.expanded}),
    _adamw("params_swapped", _A(), layouts={"params": Layout.swapped}),
    # Without fp16, whose smallest number is above eps and above most squares of gradients.
    _adamw("narrow_state", _A(narrow_state=True, grad_std=1.0), dtypes=("bf16",)),
    _adamw("wide_grads", _A(wide=("grads",)), dtypes=_16_BITS),
    _adamw("wide_params", _A(wide=("params",)), dtypes=_16_BITS),
    _adamw("wide", _A(wide=("params", "grads")), dtypes=_16_BITS),
    _adamw("step_zero", _A(step=0), invalid=True),
    Case(op="adamw", name="missing_grad", build=_missing_grad, invalid=True),
]

_MATRICES = {
    "plain": (16, 24),
    "one_value": (1, 1),
    "one_row": (1, 7),
    "one_column": (9, 1),
    "no_rows": (0, 4),
    "square": (16, 16),
    "tall": (40, 12),
    "odd": (33, 17),
    "large": (64, 130),
}
_MUON = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}


def _muon_inputs(
    draw: Draw,
    shape: tuple[int, int] = (16, 24),
    grad_std: float = 0.1,
    first: bool = False,
    wide_state: bool = True,
    wide: tuple[str, ...] = (),
    **change: float,
) -> Inputs:
    return {
        "param": draw.normal(*shape, wide="param" in wide),
        "grad": draw.normal(*shape, std=grad_std, wide="grad" in wide),
        "momentum_buffer": draw.normal(*shape, std=0.0 if first else grad_std, wide=wide_state),
        **_MUON,
        **change,
    }


def _muon(name: str, layouts: dict[str, Layout] | None = None, **given: Any) -> Case:  # Any: of _muon_inputs
    rest: dict[str, Any] = {
        field: given.pop(field) for field in ("dtypes", "invalid", "repeated") if field in given
    }
    return Case(
        op="muon_step", name=name, build=partial(_muon_inputs, **given), layouts=layouts or {}, **rest
    )


def _vector(draw: Draw) -> Inputs:
    names = ("param", "grad", "momentum_buffer")
    return {**dict.fromkeys(names, draw.normal(8)), **_MUON}


_WRITTEN = ("param", "grad", "momentum_buffer")
_MUON_CASES = [
    *(_muon(name, shape=shape, repeated=name == "large") for name, shape in _MATRICES.items()),
    _muon("first_step", first=True),
    _muon("plain_momentum", nesterov=False),
    _muon("no_decay", weight_decay=0.0),
    _muon("no_momentum", momentum=0.0),
    _muon("three_iterations", num_iterations=3),
    _muon("no_iterations", num_iterations=0),
    _muon("no_grad", grad_std=0.0),
    _muon("tiny_grad", grad_std=1e-3),
    _muon("large_grad", grad_std=1e2),
    *(
        _muon(layout.name, dict.fromkeys(_WRITTEN, layout))
        for layout in Layout
        if layout is not Layout.expanded
    ),
    _muon("wide_grad", wide=("grad",), dtypes=_16_BITS),
    _muon("wide_param", wide=("param",), dtypes=_16_BITS),
    _muon("narrow_state", wide_state=False, dtypes=_16_BITS),
    Case(op="muon_step", name="vector", build=_vector, invalid=True),
]

CASES = (*_ADAMW_CASES, *_MUON_CASES)
