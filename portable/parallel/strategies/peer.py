"""What the strategies over several processes ask of a group."""

from torch.distributed import ProcessGroup

from portable.collective.protocol import Group
from portable.core.errors import ConfigError


def need_peers(strategy: str, group: Group) -> ProcessGroup:
    """Return the torch group beneath. Raises: ConfigError if this process is alone."""
    if group.process_group is None:
        raise ConfigError(
            f"strategy={strategy} spreads a model over several processes, but this one is alone; "
            "use strategy=single, or start with `torchrun --nproc-per-node=N -m portable ...`"
        )
    return group.process_group
