"""Schedules that place stage s on rank s mod p: what a rank computes goes round and round.

Each function returns the row of ``rank``; p ranks hold v stages each and have m micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from portable.parallel.pipeline.schedule.action import Action, Kind

Pair = tuple[int, int]  # stage, micro-batch


def gpipe(rank: int, p: int, v: int, m: int) -> list[Action]:
    """All forwards, then all backwards. Source: Huang et al. 2019, arXiv:1811.06965."""
    order = [(rank, micro_batch) for micro_batch in range(m)]
    return _alternate(order, order, warmup=m)


def one_forward_one_backward(rank: int, p: int, v: int, m: int) -> list[Action]:
    """As few forwards ahead as keep the pipeline full, then one forward and one backward in turn.

    Source: Narayanan et al. 2021, arXiv:2006.09503 (PipeDream-Flush).
    """
    order = [(rank, micro_batch) for micro_batch in range(m)]
    return _alternate(order, order, warmup=min(m, p - 1 - rank))


def looped_bfs(rank: int, p: int, v: int, m: int) -> list[Action]:
    """A stage takes all micro-batches before the rank's next stage does, and so back.

    Source: Lamy-Poirier 2023, arXiv:2211.05953 (breadth-first).
    """
    stages = _stages(rank, p, v)
    forwards = [(stage, micro_batch) for stage in stages for micro_batch in range(m)]
    return _alternate(forwards, forwards[::-1], warmup=len(forwards))


def interleaved(rank: int, p: int, v: int, m: int) -> list[Action]:
    """One forward, one backward in turn, where each round of micro-batches passes all the rank's stages
    (depth first).

    Source: Narayanan et al. 2021, arXiv:2104.04473, section 2.2; rounds of other sizes than p: Llama 3,
    Dubey et al. 2024, arXiv:2407.21783, section 3.3.2.
    """
    size, stages = _per_round(p, m), _stages(rank, p, v)
    warmup = min(m * v, (v - 1) * size + 2 * (p - 1 - rank))
    return _alternate(_rounds(stages, size, m), _rounds(stages[::-1], size, m), warmup)


def interleaved_zero_bubble(rank: int, p: int, v: int, m: int) -> list[Action]:
    """As ``interleaved``, with fewer forwards ahead, and weight gradients ``rank`` actions late, where the
    rank would be idle (ZB-H1 and its interleaved form).

    Source: Qi et al. 2023, arXiv:2401.10241, section 2.
    """
    size, stages = _per_round(p, m), _stages(rank, p, v)
    warmup = min(m * v, (v - 1) * size + (p - 1 - rank))
    return _alternate(_rounds(stages, size, m), _rounds(stages[::-1], size, m), warmup, put_off=rank)


def _per_round(p: int, m: int) -> int:
    """Return how many micro-batches pass all stages of a rank together: p, or a little more."""
    return m // max(1, m // p)


def _stages(rank: int, p: int, v: int) -> list[int]:
    return list(range(rank, p * v, p))


def _rounds(stages: Sequence[int], size: int, m: int) -> list[Pair]:
    return [
        (stage, micro_batch)
        for start in range(0, m, size)
        for stage in stages
        for micro_batch in range(start, start + size)
    ]


def _alternate(
    forwards: Sequence[Pair], backwards: Sequence[Pair], warmup: int, put_off: int | None = None
) -> list[Action]:
    """Return ``warmup`` forwards, then a forward and a backward in turn, then the backwards that are left.

    With ``put_off`` a backward is the input gradient only, and the weight gradient follows that many
    backwards later.
    """
    kind = Kind.backward if put_off is None else Kind.input_gradient
    row = [Action(stage, Kind.forward, micro_batch) for stage, micro_batch in forwards[:warmup]]
    ahead = iter(forwards[warmup:])
    for place, (stage, micro_batch) in enumerate(backwards):
        if (following := next(ahead, None)) is not None:
            row.append(Action(following[0], Kind.forward, following[1]))
        row.append(Action(stage, kind, micro_batch))
        if put_off is not None and place >= put_off:
            late, its_batch = backwards[place - put_off]
            row.append(Action(late, Kind.weight_gradient, its_batch))
    if put_off:
        row += [Action(stage, Kind.weight_gradient, batch) for stage, batch in backwards[-put_off:]]
    return row
