"""Attention. Letters: B rows, T queries a row, S keys a row, N query heads, K key-value heads, H head_dim."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_QKV = ("q", "k", "v")
_16_BITS = ("bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """One attention; ``lengths`` are those of segments over all rows, ``lengths_k`` those of their keys."""

    rows: int = 2
    queries: int = 7
    keys: int | None = None  # as many as queries
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    causal: bool = True
    align: str = "end"
    window: int | None = None
    sink: bool = False
    scale: float | None = None
    lengths: tuple[int, ...] | None = None
    lengths_k: tuple[int, ...] | None = None
    std: float = 1.0
    value_std: float = 1.0
    equal_keys: bool = False
    wide: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:  # Any: see Op.facts
        return {
            "head_dim": self.head_dim,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "window": self.window,
            "sink": self.sink,
            "causal": self.causal,
            "align": self.align,
            "segments": self.lengths is not None,
        }

    def build(self, draw: Draw) -> Inputs:
        keys = self.queries if self.keys is None else self.keys
        kv_shape = self.rows, keys, self.kv_heads, self.head_dim
        q_shape = self.rows, self.queries, self.heads, self.head_dim
        k = draw.normal(*kv_shape, std=self.std, wide="k" in self.wide)
        inputs: Inputs = {
            "q": draw.normal(*q_shape, std=self.std, wide="q" in self.wide),
            "k": k[:, :1].expand_as(k).contiguous() if self.equal_keys else k,
            "v": draw.normal(*kv_shape, std=self.value_std, wide="v" in self.wide),
            "causal": self.causal,
            "align": self.align,
            "window": self.window,
            "scale": self.scale,
        }
        if self.lengths is not None:
            inputs["cu_seqlens"] = _bounds(self.lengths)
        if self.lengths_k is not None:
            inputs["cu_seqlens_k"] = _bounds(self.lengths_k)
        if self.sink:
            inputs["sink_N"] = draw.normal(self.heads, std=2.0, wide=True)
        return inputs


def _bounds(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


_P = _Problem
_PROBLEMS = {
    "plain": _P(),
    "one_token": _P(rows=1, queries=1, heads=1, kv_heads=1),
    "no_tokens": _P(queries=0),
    "no_rows": _P(rows=0),
    "no_keys": _P(queries=3, keys=0),
    "odd": _P(rows=3, queries=13, heads=3, kv_heads=1, head_dim=24),
    "head_dim_20": _P(head_dim=20),
    "head_dim_80": _P(rows=1, head_dim=80),
    "head_dim_128": _P(rows=1, head_dim=128),
    "head_dim_256": _P(rows=1, heads=2, kv_heads=1, head_dim=256),
    "large": _P(rows=1, queries=257, heads=4, kv_heads=1, head_dim=64),
    "own_keys_for_every_head": _P(heads=4, kv_heads=4),
    "one_key_head": _P(heads=8, kv_heads=1),
    "three_groups": _P(heads=6, kv_heads=3),
    "all_to_all": _P(causal=False),
    "scale": _P(scale=0.05),
    "more_keys": _P(queries=5, keys=9),
    "more_keys_from_start": _P(queries=5, keys=9, align="start"),
    "more_queries": _P(queries=9, keys=5),
    "more_queries_from_start": _P(queries=9, keys=5, align="start"),
    "one_query": _P(queries=1, keys=12),
    "other_keys_all_to_all": _P(queries=5, keys=9, causal=False),
    "window_1": _P(window=1),
    "window_3": _P(queries=11, window=3),
    "window_without_effect": _P(window=100),
    "window_both_sides": _P(queries=11, window=3, causal=False),
    "window_more_keys": _P(queries=5, keys=9, window=3),
    "window_more_keys_from_start": _P(queries=5, keys=9, window=3, align="start"),
    "window_more_queries": _P(queries=9, keys=4, window=3),
    "window_both_sides_from_start": _P(queries=5, keys=9, window=2, causal=False, align="start"),
    "window_large": _P(rows=1, queries=150, window=33, head_dim=32),
    "sink": _P(sink=True),
    "sink_and_window": _P(queries=11, sink=True, window=4),
    "sink_all_to_all": _P(sink=True, causal=False),
    "sink_more_queries": _P(queries=9, keys=5, sink=True),
    "segments": _P(rows=1, queries=13, lengths=(5, 1, 7)),
    "segments_alike": _P(rows=1, queries=12, lengths=(4, 4, 4)),
    "segments_across_rows": _P(rows=2, queries=6, lengths=(4, 5, 3)),
    "segments_with_empty": _P(rows=1, queries=9, lengths=(0, 4, 0, 5, 0)),
    "segments_all_to_all": _P(rows=1, queries=13, lengths=(5, 1, 7), causal=False),
    "segments_of_nothing": _P(rows=1, queries=0, lengths=(0, 0)),
    "segments_many": _P(rows=1, queries=93, lengths=(3, 17, 1, 30, 2, 9, 3, 28)),
    "segments_other_keys": _P(rows=1, queries=9, keys=14, lengths=(2, 3, 4), lengths_k=(5, 2, 7)),
    "segments_other_keys_from_start": _P(
        rows=1, queries=9, keys=14, lengths=(2, 3, 4), lengths_k=(5, 2, 7), align="start"
    ),
    "segments_other_keys_empty": _P(rows=1, queries=9, keys=9, lengths=(2, 0, 7), lengths_k=(0, 5, 4)),
    "segments_window_sink": _P(rows=1, queries=20, lengths=(11, 9), window=3, sink=True),
    "sharp": _P(std=2.0),
    "large_logits": _P(std=12.0),
    "large_values": _P(value_std=1e3),
    "tiny_logits": _P(std=1e-3),
    "equal_keys": _P(equal_keys=True),
    "scale_large": _P(scale=30.0),
}
# The softmax picks one key: what its gradients are made of cancels.
_SATURATED = ("large_logits", "scale_large")


def _case(op: str, name: str, problem: _Problem, **rest: Any) -> Case:  # Any: fields of Case
    given: dict[str, Any] = {"leaves": (*_QKV, "sink_N") if problem.sink else _QKV, **rest}  # Any: as above
    return Case(op=op, name=name, build=problem.build, facts=problem.facts, **given)


def _heads_that_do_not_divide(draw: Draw) -> Inputs:
    return {**_P().build(draw), "q": draw.normal(2, 7, 5, 16)}


def _bounds_that_do_not_reach(draw: Draw) -> Inputs:
    return {**_P(rows=1).build(draw), "cu_seqlens": _bounds((3, 2))}


def _changed(draw: Draw, **given: Any) -> Inputs:  # Any: arguments of the op
    return {**_P().build(draw), **given}


def _cases(op: str) -> list[Case]:
    plain, segments, windowed = _P(), _PROBLEMS["segments"], _PROBLEMS["sink_and_window"]
    layouts = {
        **{layout.name: dict.fromkeys(_QKV, layout) for layout in Layout},
        "only_keys_expanded": {"k": Layout.expanded, "v": Layout.expanded},
        "each_otherwise": {"q": Layout.heads_first, "k": Layout.sliced, "v": Layout.stepped},
    }
    refused = {
        "heads_that_do_not_divide": _heads_that_do_not_divide,
        "bounds_that_do_not_reach": _bounds_that_do_not_reach,
        "window_of_nothing": partial(_changed, window=0),
        "unknown_alignment": partial(_changed, align="middle"),
    }
    return [
        *(
            _case(
                op,
                name,
                problem,
                repeated=name in ("large", "segments_many"),
                ill_conditioned=name in _SATURATED,
            )
            for name, problem in _PROBLEMS.items()
        ),
        *(_case(op, name, plain, layouts=layout) for name, layout in layouts.items()),
        *(
            _case(op, f"segments_{name}", segments, layouts=layouts[name])
            for name in ("heads_first", "sliced", "stepped", "each_otherwise")
        ),
        _case(op, "sink_stepped", windowed, layouts={"sink_N": Layout.stepped, "q": Layout.heads_first}),
        _case(op, "only_q", plain, leaves=("q",)),
        _case(op, "only_v", plain, leaves=("v",)),
        _case(op, "constant_sink", windowed, leaves=_QKV),
        *(
            _case(op, f"wide_{'_'.join(wide)}", _P(wide=wide), dtypes=_16_BITS)
            for wide in (_QKV, ("q", "k"), ("q",), ("v",))
        ),
        _case(op, "segments_wide", _P(rows=1, queries=9, lengths=(4, 5), wide=_QKV), dtypes=_16_BITS),
        *(Case(op=op, name=name, build=build, invalid=True) for name, build in refused.items()),
    ]


CASES = (*_cases("attention"), *_cases("attention__with_lse"))
