"""All pictures by the names of their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ci.pictures.canvas import Canvas
from ci.pictures.context import hybrid, ring, ulysses
from ci.pictures.data import hybrid_shards, mesh, replicas, sharded_step, zero
from ci.pictures.expert import experts, passes
from ci.pictures.pipeline import pipeline
from ci.pictures.tensor import grids, line, vocabulary

FOLDER = Path(__file__).parents[2] / "docs" / "img" / "parallel"
PICTURES: dict[str, Callable[[], Canvas]] = {
    "mesh": mesh,
    "dp": replicas,
    "zero": zero,
    "fsdp": sharded_step,
    "hsdp": hybrid_shards,
    "tp": line,
    "vocabulary": vocabulary,
    "tp_grids": grids,
    "pp": pipeline,
    "cp_ring": ring,
    "cp_ulysses": ulysses,
    "cp_hybrid": hybrid,
    "ep": experts,
    "passes": passes,
}
