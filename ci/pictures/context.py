"""Context parallelism: which tokens a rank holds, and what goes round or is traded."""

from __future__ import annotations

from ci.pictures.canvas import RANKS, Canvas
from portable.parallel.context.order import TokenOrder

_SIZE = 4


def ring() -> Canvas:
    """Head-tail balanced chunks, the causal mask in the ranks' colours, and the ring."""
    order = TokenOrder(_SIZE, balanced=True)
    owner = {chunk: rank for rank in range(_SIZE) for chunk in order.chunks(rank)}
    chunks, cell = order.num_chunks, 26
    canvas = Canvas(292, "Ring attention on four ranks: head-tail chunks give every rank as much to do")
    left, top = 176, 40
    canvas.text(left + chunks * cell / 2, 20, "keys, chunk by chunk", "small")
    canvas.text(left - 84, top + 108, "queries", "small")
    for query in range(chunks):
        canvas.text(left - 12, top + query * cell + 18, f"rank {owner[query]}", "small right")
        for key in range(chunks):
            seen = key <= query
            fill = RANKS[owner[query]] if seen else "none"
            canvas.box(
                left + key * cell, top + query * cell, cell - 2, cell - 2, fill, f"{key}" if seen else ""
            )
    counts = {rank: sum(chunk + 1 for chunk in order.chunks(rank)) for rank in range(_SIZE)}
    told = " = ".join(map(str, dict.fromkeys(counts.values())))
    canvas.text(left - 60, 276, f"each rank: {told} blocks of the mask", "left")
    canvas.text(690, 20, "keys and values go round once, forward and backward", "small")
    corners = [(560, 50), (780, 50), (780, 176), (560, 176)]
    for rank, (x, y) in enumerate(corners):
        first, second = order.chunks(rank)
        canvas.box(x, y, 110, 60, RANKS[rank], f"rank {rank}", f"chunks {first} and {second}")
    canvas.arrow((670, 80), (778, 80))
    canvas.arrow((835, 110), (835, 174))
    canvas.arrow((780, 206), (672, 206))
    canvas.arrow((615, 176), (615, 112))
    canvas.text(724, 70, "k, v", "verb")
    canvas.text(854, 147, "k, v", "verb left")
    canvas.text(724, 226, "k, v", "verb")
    canvas.text(598, 147, "k, v", "verb right")
    canvas.text(690, 276, "sent on before they are used, so that transfer can hide behind attention", "small")
    return canvas


def ulysses() -> Canvas:
    """Tokens traded for heads by one all-to-all, and back."""
    canvas = Canvas(
        226, "Ulysses on four ranks: an all-to-all trades tokens for heads, and back after attention"
    )
    for place, (title, by_row) in enumerate(
        (
            ("some tokens, all heads", True),
            ("all tokens, some heads", False),
            ("some tokens, all heads", True),
        )
    ):
        left = 82 + place * 324
        canvas.text(left + 80, 20, title, "bold")
        for row in range(4):
            for column in range(4):
                owner = row if by_row else column
                canvas.box(left + column * 41, 50 + row * 33, 38, 30, RANKS[owner], str(owner))
        canvas.text(left + 80, 42, "heads", "small")
        canvas.text(left - 10, 118, "tokens", "small right")
    for place, words in enumerate(("q, k, v", "output")):
        x = 254 + place * 324
        canvas.arrow((x, 150), (x + 92, 150))
        canvas.text(x + 46, 168, words, "small")
        canvas.text(x + 46, 140, "all-to-all", "verb")
    canvas.text(
        486,
        212,
        "a number is the rank that holds it; attention in the middle is the ordinary kernel: exact",
        "small",
    )
    return canvas


def hybrid() -> Canvas:
    """Ulysses inside, a ring between."""
    canvas = Canvas(196, "Hybrid context parallelism: all-to-all inside a group, a ring between groups")
    for group in range(2):
        x = 40 + group * 490
        canvas.box(x, 34, 390, 112, "frame")
        canvas.text(x + 195, 24, f"group {group}, e.g. one machine: half of the tokens", "bold")
        for member in range(2):
            rank = 2 * group + member
            canvas.box(
                x + 24 + member * 212, 58, 130, 62, RANKS[rank], f"rank {rank}", f"half {member} of the heads"
            )
        canvas.arrow((x + 154, 90), (x + 236, 90), both=True)
        canvas.text(x + 195, 80, "all-to-all", "verb")
    canvas.arrow((430, 76), (530, 76))
    canvas.arrow((530, 106), (430, 106))
    canvas.text(480, 68, "ring: k, v", "verb")
    canvas.text(
        480,
        178,
        "context_parallel_degree = 4, context_parallel_ulysses_degree = 2: the ring has 4 / 2 = 2 places",
        "small",
    )
    return canvas
