"""Attention of one new token a row to a cache.

Letters: B rows, S cached positions, P pages, C positions a page, M pages a row, N query heads, K key-value
heads, H head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_CACHES = ("k", "v")
_16_BITS = ("bf16", "fp16")
_LEFT_OVER = 1e4  # what lies in a cache behind a row's length


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    lengths: tuple[int, ...] = (5, 1, 9)
    num_positions: int = 12
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    window: int | None = None
    sink: bool = False
    scale: float | None = None
    std: float = 1.0
    wide: tuple[str, ...] = ()
    page_size: int = 4
    shared_pages: bool = False

    @property
    def facts(self) -> dict[str, Any]:  # Any: see Op.facts
        return {
            "head_dim": self.head_dim,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "window": self.window,
            "sink": self.sink,
        }

    def dense(self, draw: Draw) -> Inputs:
        """Return a cache of rows; positions behind a row's length hold large numbers."""
        rows = len(self.lengths)
        behind = torch.arange(self.num_positions) >= torch.tensor(self.lengths)[:, None]
        inputs = self._ends(draw)
        for name in _CACHES:
            cache = draw.normal(
                rows, self.num_positions, self.kv_heads, self.head_dim, std=self.std, wide=name in self.wide
            )
            inputs[name] = cache.masked_fill_(behind[..., None, None], _LEFT_OVER)
        return self._in_order(inputs, {"lengths": torch.tensor(self.lengths)})

    def paged(self, draw: Draw) -> Inputs:
        """Return a cache in pages in random order; those that no row reaches hold large numbers."""
        size, rows = self.page_size, len(self.lengths)
        num_table = -(-self.num_positions // size)
        num_pages = rows * num_table + 2
        table = draw.order(num_pages)[: rows * num_table].view(rows, num_table)
        if self.shared_pages:
            table[1:, 0] = table[0, 0]
        reached = torch.arange(num_table) < -(-torch.tensor(self.lengths)[:, None] // size)
        used = torch.zeros(num_pages, dtype=torch.bool)
        used[table[reached]] = True
        inputs = self._ends(draw)
        for name in _CACHES:
            pages = draw.normal(
                num_pages, size, self.kv_heads, self.head_dim, std=self.std, wide=name in self.wide
            )
            inputs[name] = pages.masked_fill_(~used[:, None, None, None], _LEFT_OVER)
        table = table.masked_fill(~reached, -1)
        return self._in_order(inputs, {"block_table": table, "lengths": torch.tensor(self.lengths)})

    def _ends(self, draw: Draw) -> Inputs:
        shape = len(self.lengths), self.heads, self.head_dim
        inputs: Inputs = {"q": draw.normal(*shape, std=self.std, wide="q" in self.wide)}
        if self.sink:
            inputs["sink_N"] = draw.normal(self.heads, std=2.0, wide=True)
        return inputs

    def _in_order(self, inputs: Inputs, places: Inputs) -> Inputs:
        given = {"sink_N": inputs["sink_N"]} if self.sink else {}
        first = {name: inputs[name] for name in ("q", *_CACHES)}
        return {**first, **places, **given, "window": self.window, "scale": self.scale}


_P = _Problem
_PROBLEMS = {
    "plain": _P(),
    "one_position": _P(lengths=(1,), num_positions=1, heads=1, kv_heads=1),
    "no_rows": _P(lengths=()),
    "row_of_nothing": _P(lengths=(0, 3, 0)),
    "only_rows_of_nothing": _P(lengths=(0, 0)),
    "full_cache": _P(lengths=(12, 12, 12)),
    "odd": _P(lengths=(7, 13, 2, 1, 11), num_positions=13, heads=3, kv_heads=1, head_dim=24, page_size=3),
    "head_dim_80": _P(head_dim=80),
    "head_dim_128": _P(head_dim=128),
    "one_position_a_page": _P(page_size=1),
    "page_longer_than_rows": _P(page_size=16),
    "large": _P(lengths=(300, 17, 257), num_positions=320, heads=8, kv_heads=2, head_dim=64, page_size=16),
    "own_keys_for_every_head": _P(heads=4, kv_heads=4),
    "one_key_head": _P(heads=8, kv_heads=1),
    "three_groups": _P(heads=6, kv_heads=3),
    "scale": _P(scale=0.05),
    "window_1": _P(window=1),
    "window_3": _P(window=3),
    "window_over_pages": _P(window=6),
    "window_without_effect": _P(window=100),
    "window_row_of_nothing": _P(lengths=(0, 5, 12), window=4),
    "sink": _P(sink=True),
    "sink_and_window": _P(sink=True, window=3, lengths=(0, 5, 9)),
    "sharp": _P(std=2.0),
    "large_logits": _P(std=12.0),
    "tiny_logits": _P(std=1e-3),
}


def _case(op: str, name: str, problem: _Problem, **rest: Any) -> Case:  # Any: fields of Case
    pages = op == "paged_attention"
    facts = {**problem.facts, "page_size": problem.page_size} if pages else problem.facts
    build = problem.paged if pages else problem.dense
    leaves = ("q", *_CACHES, "sink_N") if problem.sink else ("q", *_CACHES)
    given: dict[str, Any] = {"leaves": leaves, **rest}  # Any: as above
    return Case(op=op, name=name, build=build, facts=facts, **given)


def _wrong_lengths(draw: Draw, pages: bool) -> Inputs:
    inputs = _P().paged(draw) if pages else _P().dense(draw)
    return {**inputs, "lengths": torch.tensor([1, 2])}


def _wrong_heads(draw: Draw, pages: bool) -> Inputs:
    inputs = _P().paged(draw) if pages else _P().dense(draw)
    return {**inputs, "q": draw.normal(3, 5, 16)}


def _cases(op: str) -> list[Case]:
    pages = op == "paged_attention"
    # Rows that share one memory must hold alike positions; pages that do would not be pages.
    layouts = [layout for layout in Layout if layout is not Layout.expanded]
    return [
        *(
            _case(op, name, problem, repeated=name == "large", ill_conditioned=name == "large_logits")
            for name, problem in _PROBLEMS.items()
        ),
        *(_case(op, layout.name, _P(), layouts=dict.fromkeys(("q", *_CACHES), layout)) for layout in layouts),
        _case(op, "query_expanded", _P(), layouts={"q": Layout.expanded}),
        _case(op, "lengths_stepped", _P(), layouts={"lengths": Layout.stepped, "block_table": Layout.sliced}),
        _case(op, "without_gradients", _P(), leaves=()),
        *(
            _case(op, f"wide_{'_'.join(wide)}", _P(wide=wide), dtypes=_16_BITS)
            for wide in (("q", *_CACHES), ("q",), _CACHES)
        ),
        Case(op=op, name="lengths_that_do_not_fit", build=partial(_wrong_lengths, pages=pages), invalid=True),
        Case(op=op, name="heads_that_do_not_divide", build=partial(_wrong_heads, pages=pages), invalid=True),
    ]


_SHARED = _case("paged_attention", "shared_pages", _P(lengths=(5, 4, 9), shared_pages=True))
CASES = (*_cases("decode_attention"), *_cases("paged_attention"), _SHARED)
