"""Cutting parameters in place, and noting where the parts lie."""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import nn

from portable.parallel.mesh import Mesh
from portable.parallel.placement import Cut, Placement


def cut_parameter(
    model: nn.Module,
    name: str,
    cuts: tuple[Cut, ...],
    mesh: Mesh,
    placements: MutableMapping[str, Placement],
) -> None:
    """Leave this rank its part of a parameter that no pass has cut yet, and note it; on meta, too.

    A parameter that several modules share stays shared. One that another pipeline stage of this rank has,
    too, is cut with the first of them.
    """
    parameter = model.get_parameter(name)
    placement = placements[name]
    if placement.cuts == cuts:
        return
    for cut in cuts:
        placement = placement.cut(cut.dim, cut.axis)
    placements[name] = placement
    extent = placement.extent(mesh)
    part = nn.Parameter(extent.of(parameter.detach()).clone(), parameter.requires_grad)
    replace_parameter(model, parameter, part)


def replace_parameter(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put ``new`` wherever ``old`` is registered."""
    for module in model.modules():
        for key, found in module.named_parameters(recurse=False, remove_duplicate=False):
            if found is old:
                module.register_parameter(key, new)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new``, which has the same parameters by the same names, in the place of the module ``name``."""
    parent, _, key = name.rpartition(".")
    new.train(model.get_submodule(name).training)
    model.get_submodule(parent).register_module(key, new)
