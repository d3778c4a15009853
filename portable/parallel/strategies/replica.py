"""Parameters that compute whole on every rank of their data axis: gradients add up, and what the optimiser
keeps may be divided (ZeRO stages 1 and 2: Rajbhandari et al. 2020, arXiv:1910.02054, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.config import PrecisionConfig
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement, Placements, chunk
from portable.parallel.strategies.bucket import Bucket, Member, Place, Route, dim_to_divide
from portable.parallel.strategies.peer import checked_group
from portable.parallel.strategies.reducer import Reducer

_MIB = 1 << 20


class Divides(IntEnum):
    """What ranks of the shard axis divide among them; each includes those before."""

    nothing = 0
    states = 1
    gradients = 2


@dataclass(frozen=True, slots=True)
class Terms:
    """How a strategy keeps parameters that compute whole.

    With ``casts`` modules hold them in ``compute_dtype``, and the optimiser has copies in ``param_dtype``.
    ``bucket_mb`` is the size in MiB of what travels at once.
    """

    strategy: str
    divides: Divides
    casts: bool
    bucket_mb: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What members of one bucket share: axes (``shard`` is "" where nothing is divided), formats."""

    trains: bool
    data: str
    shard: str
    replica: str
    held: torch.dtype
    computes: torch.dtype

    @property
    def has_parts(self) -> bool:
        """Whether the optimiser updates something else than the modules' parameters."""
        return self.shard != "" or self.held is not self.computes


class Replicas:
    """Some of a model's parameters, by name; gives each its place among the optimiser's, in ``holdings``."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        placements: Placements,
        terms: Terms,
        precision: PrecisionConfig,
        mesh: Mesh,
        device: Device,
    ) -> None:
        self._terms = terms
        self._precision = precision
        self._mesh = mesh
        self._device = device
        self.holdings: dict[str, ParameterShard] = {}
        by_kind: dict[_Kind, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters.items():
            placement = placements.get(name, Placement(tuple(parameter.shape)))
            self.holdings[name] = ParameterShard(name, parameter, placement)
            by_kind.setdefault(self._kind(parameter, placement), []).append((name, parameter))
        buckets = [
            (kind, bucket) for kind, members in by_kind.items() for bucket in self._buckets(kind, members)
        ]
        self._with_parts = [bucket for kind, bucket in buckets if kind.has_parts]
        self._with_trained_parts = [bucket for kind, bucket in buckets if kind.has_parts and kind.trains]
        self.reducer = Reducer([bucket for kind, bucket in buckets if kind.trains], device)

    def publish(self, *, trained_only: bool = False) -> None:
        """Bring the optimiser's parts into the parameters that compute."""
        for bucket in self._with_trained_parts if trained_only else self._with_parts:
            bucket.publish()

    def _kind(self, parameter: nn.Parameter, placement: Placement) -> _Kind:
        divided = (
            self._terms.divides is not Divides.nothing
            and parameter.ndim > 0
            and placement.shard != ""
            and self._mesh.size(placement.shard) > 1
        )
        casts = self._terms.casts and parameter.is_floating_point()
        return _Kind(
            trains=parameter.requires_grad,
            data=placement.data,
            shard=placement.shard if divided else "",
            replica=placement.replica,
            held=self._precision.param_dtype.torch() if parameter.is_floating_point() else parameter.dtype,
            computes=self._precision.compute_dtype.torch() if casts else parameter.dtype,
        )

    def _buckets(self, kind: _Kind, parameters: list[tuple[str, nn.Parameter]]) -> Iterator[Bucket]:
        route = self._route(kind)
        if not kind.has_parts and (route.is_trivial or not kind.trains):
            return  # such a parameter has nothing to tell to anybody
        travel_dtype = self._precision.reduce_dtype.torch()
        keeps_whole = self._terms.divides is not Divides.gradients
        limit = self._terms.bucket_mb * _MIB // torch.promote_types(kind.computes, travel_dtype).itemsize
        members: list[Member] = []
        offset = 0
        for name, parameter in reversed(parameters):  # the last ones have their gradients first
            if members and (offset + parameter.numel() / route.shard.size) * route.shard.size > limit:
                yield Bucket(members, route, travel_dtype, keeps_whole=keeps_whole)
                members, offset = [], 0
            members.append(self._member(name, parameter, kind, route, offset))
            offset += members[-1].place.length
        yield Bucket(members, route, travel_dtype, keeps_whole=keeps_whole)

    def _route(self, kind: _Kind) -> Route:
        """Return the groups that together are the data axis."""
        strategy = self._terms.strategy
        data = checked_group(strategy, kind.data, self._mesh, self._device)
        if not kind.shard:
            return Route(LocalGroup(kind.data), data)
        shard = checked_group(strategy, kind.shard, self._mesh, self._device)
        replica = checked_group(strategy, kind.replica, self._mesh, self._device)
        if shard.size * replica.size != data.size:
            raise CapabilityError(
                f"strategy={strategy} cannot add up gradients over the {data.size} ranks of axis "
                f"'{kind.data}': its axes '{kind.shard}' and '{kind.replica}' span "
                f"{shard.size} × {replica.size}"
            )
        return Route(shard, replica)

    def _member(self, name: str, parameter: nn.Parameter, kind: _Kind, route: Route, offset: int) -> Member:
        """Give the optimiser its part of a parameter."""
        size, rank = route.shard.size, route.shard.rank
        dim = dim_to_divide(parameter.shape, size)
        place = Place(tuple(parameter.shape), dim, size, offset)
        if not kind.has_parts:
            return Member(name, parameter, parameter, place)
        own = parameter.detach()
        placement = self.holdings[name].placement
        if kind.shard:
            own = own.narrow(dim, *chunk(parameter.shape[dim], size, rank))
            placement = placement.cut(dim, kind.shard)
        if kind.held is not kind.computes:
            # Of one that is in the other format already, nothing but the part is ever wide.
            own = own.to(kind.held, copy=bool(kind.shard))
            parameter.data = parameter.data.to(kind.computes)
        part = nn.Parameter(own, parameter.requires_grad)
        self.holdings[name] = ParameterShard(name, part, placement)
        return Member(name, parameter, part, place)
