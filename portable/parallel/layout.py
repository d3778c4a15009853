"""Which rank stands where: the degrees of every axis, and the groups of ranks that they make.

Ranks are numbered with ``pp`` slowest and ``tp`` fastest, so that the axes that talk most are nearest:
rank = (((pp · dp + dp) · fsdp + fsdp) · cp + cp) · tp + tp. Experts are folded onto the ranks of a stage
(Megatron's parallel folding): ``ep`` neighbours hold different experts, ``edp`` the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from portable.core.errors import ConfigError

AXES = ("pp", "dp", "fsdp", "cp", "tp")
# Axes that are several taken together.
JOINT = {
    "batch": ("dp", "fsdp"),  # ranks that read different samples
    "data": ("dp", "fsdp", "cp"),  # ranks whose gradients of a dense parameter add up
    "shard": ("fsdp", "cp"),  # ranks that divide a dense parameter's state
    "loss": ("pp", "dp", "fsdp", "cp"),  # ranks whose losses add up
    "model": ("pp", "tp"),  # ranks that together hold one copy of a dense model
    "stage": ("dp", "fsdp", "cp", "tp"),  # ranks that hold the same layers
}
EXPERT = ("ep", "edp", "efsdp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The degrees: pipeline stages, replicas, shards, context parts, tensor parts, expert parts."""

    pp: int = 1
    dp: int = 1
    fsdp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for axis in (*AXES, "ep"):
            if getattr(self, axis) < 1:
                raise ConfigError(f"the degree of axis {axis} is {getattr(self, axis)}; use 1 or more")
        inside = self.stage_size
        if inside % self.ep:
            legal = [n for n in range(1, inside + 1) if inside % n == 0]
            raise ConfigError(
                f"parallel.expert_parallel_degree={self.ep} does not divide the {inside} ranks of a pipeline "
                f"stage (dp × fsdp × cp × tp = {self.dp} × {self.fsdp} × {self.cp} × {self.tp}); use one of "
                f"{legal}"
            )
        if self.dp > 1 and self.fsdp > 1 and (inside // self.dp) % self.ep:
            per_replica = inside // self.dp
            legal = [n for n in range(1, per_replica + 1) if per_replica % n == 0]
            raise ConfigError(
                f"parallel.expert_parallel_degree={self.ep} does not divide fsdp × cp × tp = {per_replica}, "
                f"so a replica's experts would be spread over another; use one of {legal}"
            )

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.pp * self.stage_size

    @property
    def stage_size(self) -> int:
        """Ranks that hold the same layers."""
        return self.dp * self.fsdp * self.cp * self.tp

    def size(self, axis: str) -> int:
        """Return the degree of an axis, joint and expert ones included."""
        if axis in JOINT:
            return math.prod(getattr(self, part) for part in JOINT[axis])
        if axis == "edp":
            return self.stage_size // self.ep
        if axis == "efsdp":  # the part of edp inside one replica of a sharded model
            return self.stage_size // self.dp // self.ep if self.fsdp > 1 else 1
        return int(getattr(self, axis))

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return the place of a rank on each of ``AXES``."""
        place: dict[str, int] = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, getattr(self, axis))
        return place

    def parts(self, axis: str) -> list[list[int]]:
        """Return the groups of ranks that differ on ``axis`` only, each in the order of the axis."""
        if axis in EXPERT:
            return self._expert_parts(axis)
        moving = JOINT.get(axis, (axis,))
        groups: dict[Sequence[int], list[int]] = {}
        for rank in range(self.world_size):
            place = self.coordinates(rank)
            key = tuple(place[other] for other in AXES if other not in moving)
            groups.setdefault(key, []).append(rank)
        return list(groups.values())

    def _expert_parts(self, axis: str) -> list[list[int]]:
        groups: dict[Sequence[int], list[int]] = {}
        for rank in range(self.world_size):
            stage, place = divmod(rank, self.stage_size)
            block, expert = divmod(place, self.ep)
            replica = block // self.size("efsdp")
            key = {"ep": (stage, block), "edp": (stage, expert), "efsdp": (stage, expert, replica)}[axis]
            groups.setdefault(key, []).append(rank)
        return list(groups.values())

    def __str__(self) -> str:
        """Return the degrees above 1, e.g. ``pp2 × tp2``."""
        degrees = {axis: getattr(self, axis) for axis in (*AXES, "ep")}
        return " × ".join(f"{axis}{n}" for axis, n in degrees.items() if n > 1) or "one rank"
