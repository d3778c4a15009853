"""Which conversations share a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return rows of indices into ``lengths`` whose lengths sum to at most ``capacity``.

    Best fit, longest first: each goes where it leaves the least room; a row is opened only if none has room.
    Uses at most 11/9 of the fewest possible rows, and some (Johnson 1973). Rows and the indices in them are
    in input order.
    Raises: ValueError if a length exceeds the capacity.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"item {index} of length {length} does not fit a row of {capacity}")
        place = bisect_left(room, (length, 0))
        if place < len(room):
            free, row = room.pop(place)
        else:
            free, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (free - length, row))
    return sorted(sorted(row) for row in rows)
