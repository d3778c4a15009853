"""What ``case.call_all`` must return, worked out without any group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

OPS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "min": min,
    "product": math.prod,
    "premul_sum": lambda values: sum(value * 0.5 for value in values),
}
Matrix = list[list[float]]


def own(rank: int) -> Matrix:
    return [[value * (rank + 1) for value in row] for row in ([1.0, -2.0], [3.0, 4.0])]


def blocks(rank: int, size: int) -> list[float]:
    return [place + 10.0 * rank for place in range(2 * size)]


def expected(rank: int, size: int) -> dict[str, Any]:
    """Return the results of ``rank`` among ``size``."""
    ranks, last = range(size), size - 1
    total = sum(ranks)
    counts = [(peer + rank) % 3 for peer in ranks]
    results: dict[str, Any] = {
        **{f"reduce_{name}": _over_ranks(size, how) for name, how in OPS.items()},
        **{
            f"scatter_{name}": [
                [how([blocks(peer, size)[2 * rank + place] for peer in ranks])] for place in range(2)
            ]
            for name, how in OPS.items()
        },
        "reduce_strided": [[size * col + total, size * (col + 3) + total] for col in range(3)],
        "reduce_scalar": 2.0 * size,
        "reduce_nothing": [0, 2],
        "reduce_many": [
            _over_ranks(size, sum),
            total,
            [[value + size for value in _over_ranks(size, sum)[0]]],
            [],
        ],
        "unchanged": True,
        "gather_all": [own(peer) for peer in ranks],
        "gather_scalar": [float(peer) for peer in ranks],
        "gather_ragged": [[[float(peer)] * 2] * peer for peer in ranks],
        "gather_last": [own(peer) for peer in ranks] if rank == last else None,
        "to_all": [[blocks(peer, size)[2 * rank + place]] for peer in ranks for place in range(2)],
        "to_all_ragged": [
            [rank + 10.0 * peer for peer, count in enumerate(counts) for _ in range(count)],
            counts,
        ],
        "to_all_again": True,
        "broadcast_first": own(0),
        "broadcast_last": own(last),
        "broadcast_many": [own(last), own(last), [[value > 0 for value in row] for row in own(last)]],
        "scatter_last": [[value] for value in blocks(last, size)[2 * rank : 2 * rank + 2]],
        "sum_scalar": sum(2**40 + peer + 0.25 for peer in ranks),
        "object": {"rank": last, "text": "é" * last},
        "objects": ["x" * peer for peer in ranks],
    }
    if size > 1:
        before, after = (rank - 1) % size, (rank + 1) % size
        ring = own(before)
        results |= {"ring": ring, "exchange": [[float(before)], [after] * 3], "exchange_none": []}
        results["exchange_begun"] = [[[-value for value in row] for row in ring], ring]
        results["exchange_taken"] = 0
    return results


def _over_ranks(size: int, how: Callable[[Sequence[float]], float]) -> Matrix:
    return [[how([own(rank)[row][col] for rank in range(size)]) for col in range(2)] for row in range(2)]
