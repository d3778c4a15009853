"""What one start of some ranks finds out for all tests of this folder."""

from __future__ import annotations

import os
from typing import Any

from portable.parallel.config import ParallelConfig
from portable.testing.runtime import make_runtime
from tests.portable.parallel.expert import case_dispatch, case_mixture

PARTS = {"dispatch": case_dispatch.run, "mixture": case_mixture.run}


def run(backend: str, *parts: str) -> dict[str, Any]:
    """Return what each of ``parts`` reports on this rank; they divide the world by meshes of their own."""
    world = int(os.environ["WORLD_SIZE"])
    runtime = make_runtime(backend, parallel=ParallelConfig(context_parallel_degree=world))
    report = {part: PARTS[part](runtime) for part in parts}
    runtime.group.close()
    return report
