"""What ranks of a mesh see; run in real processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from portable.parallel.config import ParallelConfig
from portable.parallel.gather import gather_whole
from portable.parallel.placement import Cut, Placement
from portable.testing.runtime import make_runtime


def run() -> dict[str, Any]:
    """Four ranks, 2 × 2."""
    config = ParallelConfig(tensor_parallel_degree=2)
    mesh = make_runtime("cpu", "fsdp", parallel=config).mesh
    shape = (5, 3)
    whole = torch.arange(15.0).view(shape)
    gathered = {}
    for name, cuts in {
        "rows": (Cut(0, "tp"), Cut(0, "fsdp")),
        "both": (Cut(1, "tp"), Cut(0, "fsdp")),
        "none": (),
    }.items():
        placement = Placement(shape, cuts)
        part = placement.extent(mesh).of(whole).clone()
        gathered[name] = bool(torch.equal(gather_whole(part, placement, mesh), whole))
    mesh.fold("stage", ("outer", "inner"), (2, 2))
    empty = Placement((1, 2), (Cut(0, "tp"), Cut(0, "fsdp"))).extent(mesh)
    torch_mesh = mesh.torch_mesh("fsdp", "tp")
    before = mesh.world.split("again", [[0, 1], [2, 3]])
    if mesh.world.rank < 2:  # one group of the name makes more calls than the other
        before.barrier()
    again = mesh.world.split("again", [[0, 2], [1, 3]])
    report = {
        "again": again.all_reduce(torch.tensor(float(mesh.world.rank))).item(),
        "tp": list(mesh.group("tp").ranks),
        "data": list(mesh.group("data").ranks),
        "same": mesh.group("data") is mesh.group("fsdp"),
        "world": mesh.group("stage") is mesh.world,
        "alone": mesh.size("cp"),
        "inner": list(mesh.group("inner").ranks),
        "outer": list(mesh.group("outer").ranks),
        "gathered": gathered,
        "grid": torch_mesh.mesh.tolist(),
        "names": list(torch_mesh.mesh_dim_names or ()),
        "empty": list(replace(empty).shape),
    }
    mesh.world.close()
    return report
