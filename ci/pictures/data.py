"""The mesh, and what ranks that read different samples replicate or divide."""

from __future__ import annotations

from ci.pictures.canvas import RANKS, Canvas
from portable.parallel.layout import Layout


def mesh() -> Canvas:
    """Eight ranks on three axes, with the groups that the layout makes of them."""
    layout = Layout(pp=2, fsdp=2, tp=2, ep=2)
    canvas = Canvas(236, "Eight ranks as pp 2, fsdp 2, tp 2: neighbours share tp, stages are farthest apart")
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        x, y = 34 + place["pp"] * 264 + place["tp"] * 108, 48 + place["fsdp"] * 84
        canvas.box(x, y, 76, 52, RANKS[2 * place["fsdp"] + place["tp"]], f"rank {rank}")
    for stage in range(2):
        x = 34 + stage * 264
        canvas.box(x - 18, 34, 220, 164, "frame")
        canvas.text(x + 92, 24, f"stage {stage}", "bold")
        for row in range(2):
            canvas.arrow((x + 76, 74 + row * 84), (x + 108, 74 + row * 84), both=True)
        for column in range(2):
            canvas.arrow((x + 38 + column * 108, 100), (x + 38 + column * 108, 132), both=True)
        canvas.text(x + 92, 66, "tp", "verb")
        canvas.text(x + 92, 121, "fsdp", "verb")
    canvas.arrow((237, 116), (279, 116), both=True)
    canvas.text(258, 106, "pp", "verb")
    canvas.text(258, 222, "rank = (pp · 2 + fsdp) · 2 + tp", "small")
    canvas.text(572, 24, "the groups of each axis", "bold left")
    for place, axis in enumerate(("tp", "fsdp", "pp", "ep", "edp", "stage")):
        y = 58 + place * 29
        canvas.text(560, y, axis, "verb right")
        canvas.text(
            572, y, "   ".join("{" + " ".join(map(str, part)) + "}" for part in layout.parts(axis)), "left"
        )
    for place, words in (
        (3, "ranks with different experts"),
        (4, "ranks with the same experts"),
        (5, "hold the same layers"),
    ):
        canvas.text(756, 58 + place * 29, words, "small left")
    return canvas


def replicas() -> Canvas:
    """dp: the same model everywhere, gradients added."""
    canvas = Canvas(232, "Each replica reads its own samples; gradients are added over the replicas")
    for rank in range(4):
        x = 24 + rank * 236
        canvas.box(x, 14, 204, 34, "box", f"samples of rank {rank}")
        canvas.arrow((x + 102, 48), (x + 102, 70))
        canvas.box(x, 72, 204, 36, "grey", "the whole model")
        canvas.arrow((x + 102, 108), (x + 102, 130))
        canvas.box(x, 132, 204, 32, RANKS[rank], f"gradient g{rank}")
        canvas.arrow((x + 102, 164), (x + 102, 188))
    canvas.box(
        24,
        190,
        912,
        30,
        "box",
        "all-reduce, a bucket at a time while the backward pass runs:  g0 + g1 + g2 + g3 on every rank",
    )
    return canvas


_STATES = ("parameters", "gradients", "optimiser states")
_DIVIDED = {
    "ddp": (0, "all-reduce gradients"),
    "zero1": (
        1,
        "reduce-scatter gradients after the last micro-batch, all-gather parameters after the update",
    ),
    "zero2": (2, "the same; each micro-batch’s gradients are divided at once"),
    "zero3 = fsdp": (3, "all-gather a block’s parameters before it computes, reduce-scatter its gradients"),
}


def zero() -> Canvas:
    """What rank 1 of four keeps under each stage of ZeRO."""
    canvas = Canvas(
        312, "ZeRO stages: which of parameters, gradients and optimiser states rank 1 of four keeps"
    )
    for place, state in enumerate(_STATES):
        canvas.text(266 + place * 268, 20, state, "bold")
    for row, (name, (divided, travels)) in enumerate(_DIVIDED.items()):
        y = 34 + row * 66
        canvas.text(118, y + 18, name, "right bold")
        for place in range(len(_STATES)):
            whole = place < len(_STATES) - divided
            for part in range(4):
                x = 140 + place * 268 + part * 63
                held = whole or part == 1
                canvas.box(x, y, 60, 26, RANKS[part] if held else "none", f"{part}" if held else "")
        canvas.text(140, y + 44, travels, "small left")
    canvas.text(
        140,
        304,
        "a number is a part of the model, here divided over four ranks; an empty box lies on another rank",
        "small left",
    )
    return canvas


def sharded_step() -> Canvas:
    """fsdp: when a block's parameters are there, and when its gradients leave."""
    canvas = Canvas(
        176, "A rank under fsdp: the next block is gathered while one computes, and freed after it"
    )
    passes = [("forward", block) for block in range(3)] + [("backward", block) for block in (2, 1, 0)]
    for row, words in enumerate(("all-gather", "compute", "reduce-scatter")):
        canvas.text(128, 54 + row * 42, words, "right small")
    for place, (phase, block) in enumerate(passes):
        x = 252 + place * 114  # each pass gathers one block ahead
        canvas.box(x - 112, 34, 104, 30, RANKS[block], f"block {block}")
        canvas.box(x, 76, 108, 30, RANKS[block], f"{phase} {block}")
        canvas.arrow((x - 30, 64), (x + 6, 76))
        if phase == "backward" and place < len(passes):
            canvas.arrow((x + 54, 106), (x + 54, 118))
            canvas.box(x, 118, 108, 30, RANKS[block], f"gradients {block}")
    canvas.text(140, 20, "time", "left small")
    canvas.arrow((174, 16), (240, 16))
    canvas.text(
        140,
        168,
        "freed after its turn (reshard_after_forward); num_prefetch_blocks: how far gathering is ahead",
        "left small",
    )
    return canvas


def hybrid_shards() -> Canvas:
    """hsdp: shards inside a group, replicas between groups."""
    canvas = Canvas(216, "hsdp on two groups of two ranks: shards inside a group, replicas between groups")
    for group in range(2):
        y = 18 + group * 104
        canvas.box(150, y, 470, 80, "frame")
        canvas.text(138, y + 36, f"replica {group}", "bold right")
        canvas.text(138, y + 54, "e.g. one machine", "small right")
        for shard in range(2):
            canvas.box(
                176 + shard * 250,
                y + 14,
                168,
                52,
                RANKS[shard],
                f"rank {2 * group + shard}",
                f"shard {shard}",
            )
        canvas.arrow((344, y + 40), (426, y + 40), both=True)
        canvas.text(385, y + 30, "fsdp", "verb")
    for shard in range(2):
        x = 260 + shard * 250
        canvas.arrow((x, 84), (x, 136), both=True)
        canvas.text(x + 16, 115, "dp", "verb")
    canvas.text(644, 44, "inside: all-gather parameters and", "left small")
    canvas.text(644, 62, "reduce-scatter gradients, every block", "left small")
    canvas.text(644, 148, "between: all-reduce a shard’s gradients,", "left small")
    canvas.text(644, 166, "1 / fsdp of the model, once a step", "left small")
    return canvas
