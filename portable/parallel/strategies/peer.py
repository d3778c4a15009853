"""What a strategy asks of the groups that it communicates in."""

from __future__ import annotations

from portable.collective.protocol import Group
from portable.core.errors import CapabilityError
from portable.device.protocol import Device
from portable.parallel.mesh import Mesh


def checked_group(strategy: str, axis: str, mesh: Mesh, device: Device) -> Group:
    """Return the group of an axis, if it is what the layout and the device ask for.

    Raises: CapabilityError if it joins another number of ranks, or by something that does not carry the
    device's tensors.
    """
    group = mesh.group(axis)
    wanted = mesh.layout.size(axis)
    beneath = group.size if group.process_group is None else group.process_group.size()
    if not group.size == beneath == wanted:
        raise CapabilityError(
            f"strategy={strategy} needs {wanted} ranks on axis '{axis}' of the layout {mesh.layout}, but the "
            f"group that was made joins {group.size}, and torch's beneath it {beneath}"
        )
    carrier = device.capability().communicator
    if group.size > 1 and (group.process_group is None or group.communicator != carrier):
        raise CapabilityError(
            f"strategy={strategy} needs the ranks of axis '{axis}' joined by {carrier}, which carries "
            f"tensors of {device.name}, but they are joined by {group.communicator}; use "
            f"communicator={carrier}"
        )
    return group
