"""Expert parallelism, and the order in which passes change a model."""

from __future__ import annotations

from ci.pictures.canvas import RANKS, Canvas


def experts() -> Canvas:
    """Dispatch of tokens to the ranks that own their experts, and back."""
    canvas = Canvas(250, "Expert parallelism: tokens travel to the ranks that own their experts, and back")
    chosen = ((0, 2, 3, 0), (3, 1, 0, 2))
    heads = ("tokens, with their experts", "ordered by expert", "the rank’s experts", "weighted sums")
    for x, words in zip((106, 330, 600, 852), heads, strict=True):
        canvas.text(x, 20, words, "bold")
    for rank in range(2):
        y = 40 + rank * 100
        canvas.text(16, y + 40, f"rank {rank}", "small left")
        for place, expert in enumerate(chosen[rank]):
            canvas.box(66 + place * 34, y + 18, 31, 36, RANKS[expert], f"e{expert}")
        canvas.arrow((206, y + 36), (254, y + 36))
        for place, expert in enumerate(sorted(chosen[rank])):
            canvas.box(258 + place * 34, y + 18, 31, 36, RANKS[expert], f"e{expert}")
        arrived = sorted(expert for row in chosen for expert in row if expert // 2 == rank)
        own = (2 * rank, 2 * rank + 1)
        for place, expert in enumerate(own):
            count = arrived.count(expert)
            canvas.box(
                514 + place * 90,
                y + 8,
                82,
                56,
                RANKS[expert],
                f"expert {expert}",
                f"{count} token{'s' * (count != 1)}",
            )
        canvas.box(788, y + 18, 130, 36, "grey", "4 tokens, in order")
    for x, to in ((398, 510), (692, 784)):
        canvas.arrow((x, 72), (to, 72))
        canvas.arrow((x, 180), (to, 180))
        canvas.arrow((x, 80), (to, 172))
        canvas.arrow((x, 172), (to, 80))
    canvas.text(454, 62, "all-to-all", "verb")
    canvas.text(738, 62, "all-to-all", "verb")
    canvas.text(
        480,
        240,
        "counts travel first, so every token arrives: no capacity, nothing dropped; here one expert a token",
        "small",
    )
    return canvas


def passes() -> Canvas:
    """The order of passes."""
    canvas = Canvas(
        214,
        "Passes: stages, tensor, context, experts, float8, tiles, linear, compile, recompute, strategy",
    )
    names = (
        ("stages", "pp", "r0"),
        ("tensor", "tp", "r0"),
        ("context", "cp", "r0"),
        ("experts", "ep", "r0"),
        ("float8", "", "r2"),
        ("tiles", "", "r2"),
        ("linear", "", "r2"),
        ("compile", "", "r2"),
        ("recompute", "", "r2"),
        ("strategy", "dp, fsdp", "r1"),
    )
    for place, (name, axis, fill) in enumerate(names):
        x = 20 + place * 93
        canvas.box(x, 44, 81, 50, fill, name, axis)
        if place:
            canvas.arrow((x - 12, 69), (x - 1, 69))
    for x, width, words, more in (
        (20, 360, "divide layers, matrices, tokens, experts", "communicate inside forward and backward"),
        (392, 453, "change how a block computes", "never what it computes, beyond float8’s rounding"),
        (857, 81, "keeps state", "sums gradients"),
    ):
        canvas.line((x, 108), (x, 116), (x + width, 116), (x + width, 108))
        canvas.text(x + width / 2, 138, words)
        canvas.text(x + width / 2, 156, more, "small")
    canvas.text(20, 24, "a neutral model", "left bold")
    canvas.text(938, 24, "what the trainer steps", "right bold")
    canvas.text(
        480,
        198,
        "cuts are noted in placements; parameter names never change; up to the strategy tensors stay plain",
        "small",
    )
    return canvas
