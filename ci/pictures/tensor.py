"""Tensor parallelism: a line of ranks, the vocabulary over it, and grids."""

from __future__ import annotations

from ci.pictures.canvas import RANKS, Canvas


def line() -> Canvas:
    """tp 1d with sequence parallelism: one region of a block on two ranks."""
    canvas = Canvas(
        262, "tp 1d on two ranks: columns, then rows; outside a region each rank has its own tokens"
    )
    canvas.box(198, 34, 560, 190, "frame")
    canvas.text(478, 24, "a region: attention or feed-forward", "bold")
    canvas.text(102, 24, "norm, residual", "bold")
    canvas.text(868, 24, "norm, residual", "bold")
    for rank in range(2):
        y = 50 + rank * 90
        fill = RANKS[rank]
        _tokens(canvas, 62, y, rank)
        canvas.box(222, y + 4, 60, 62, "grey", "all", "tokens")
        canvas.arrow((284, y + 35), (314, y + 35))
        canvas.box(316, y + 4, 120, 62, fill, "columns of W₁", "half of the outputs")
        canvas.arrow((438, y + 35), (468, y + 35))
        canvas.box(470, y + 4, 120, 62, fill, "rows of W₂", "half of the inputs")
        canvas.arrow((592, y + 35), (622, y + 35))
        canvas.box(624, y + 4, 110, 62, fill, "a part of", "every sum")
        canvas.text(8, y + 40, f"rank {rank}", "small left")
        _tokens(canvas, 830, y, rank)
        canvas.arrow((144, y + 35), (220, y + 35))
        canvas.arrow((736, y + 35), (828, y + 35))
    for x in (176, 790):
        canvas.line((x, 85), (x, 175), kind="thin")
    canvas.text(150, 246, "all-gather tokens", "verb")
    canvas.text(806, 246, "reduce-scatter sums", "verb")
    canvas.text(
        478, 246, "without sequence parallelism: nothing on the left, all-reduce on the right", "small"
    )
    return canvas


def _tokens(canvas: Canvas, x: float, y: float, rank: int) -> None:
    for part in range(2):
        held = part == rank
        canvas.box(x, y + 4 + part * 32, 80, 30, RANKS[part] if held else "none", "tokens" if held else "")


def vocabulary() -> Canvas:
    """The loss with the vocabulary over two ranks: two numbers a token travel, not logits."""
    canvas = Canvas(184, "Vocabulary-parallel loss: ranks exchange two numbers a token in place of logits")
    for rank in range(2):
        y = 16 + rank * 82
        canvas.box(16, y, 136, 54, "grey", "hidden states", "all tokens")
        canvas.arrow((152, y + 27), (184, y + 27))
        canvas.box(
            186, y, 176, 54, RANKS[rank], f"head, half {rank} of the words", "logits, a chunk at a time"
        )
        canvas.arrow((362, y + 27), (394, y + 27))
        canvas.box(
            396,
            y,
            200,
            54,
            RANKS[rank],
            f"s{'₀₁'[rank]} = logsumexp of its half",
            f"c{'₀₁'[rank]} = target’s logit, or 0",
        )
        canvas.arrow((596, y + 27), (672, 84 + (rank - 0.5) * 18))
    canvas.text(648, 88, "all-gather", "verb right")
    canvas.box(
        676, 52, 268, 66, "box", "log p = c₀ + c₁ - logsumexp(s₀, s₁)", "the same on both ranks, float32"
    )
    canvas.text(
        480,
        178,
        "backward each rank computes its half of the logits anew; only gradients of hidden states travel",
        "small",
    )
    return canvas


def grids() -> Canvas:
    """2d, 2.5d and 3d: how a matrix lies, and what moves."""
    canvas = Canvas(254, "Tensor parallel grids: 2d on 2 × 2, 2.5d on 2 × 2 × 2, 3d on 2 × 2 × 2 ranks")
    for x, words in (
        (
            140,
            (
                "2d: q × q ranks",
                "q steps (SUMMA): broadcast a",
                "block of A along its row, one of B",
                "along its column; multiply, add",
            ),
        ),
        (
            470,
            (
                "2.5d: depth × q × q ranks",
                "layers hold the same weights and",
                "other rows of the batch; gradients",
                "of weights are added over the depth",
            ),
        ),
        (
            800,
            (
                "3d: l × l × l ranks",
                "rows are gathered over j, weights",
                "over i, products added and cut over",
                "k: no rank holds what another does",
            ),
        ),
    ):
        canvas.text(x, 20, words[0], "bold")
        for place, line_ in enumerate(words[1:]):
            canvas.text(x, 210 + place * 17, line_, "small")
    _grid(canvas, 80, 44, "")
    canvas.arrow((80, 178), (200, 178), both=True)
    canvas.text(212, 183, "A", "verb")
    canvas.arrow((66, 44), (66, 164), both=True)
    canvas.text(52, 108, "B", "verb")
    for layer in range(2):
        _grid(canvas, 334 + layer * 152, 44, "")
        _grid(canvas, 664 + layer * 152, 44, str(layer))
    for x, name in ((470, "depth"), (800, "k")):
        canvas.arrow((x - 14, 104), (x + 14, 104), both=True)
        canvas.text(x, 94 if len(name) == 1 else 184, name, "verb")
    canvas.arrow((650, 44), (650, 164), both=True)
    canvas.text(638, 108, "i", "verb")
    canvas.arrow((664, 178), (784, 178), both=True)
    canvas.text(796, 183, "j", "verb")
    return canvas


def _grid(canvas: Canvas, x: float, y: float, layer: str) -> None:
    for row in range(2):
        for column in range(2):
            words = f"{row} {column} {layer}".rstrip()
            canvas.box(x + column * 61, y + row * 61, 59, 59, RANKS[2 * row + column], words)
