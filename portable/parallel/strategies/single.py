"""One process, one device: the model as it is."""

from typing import Any

from portable.parallel.strategies.native import NativeStrategy


class SingleStrategy(NativeStrategy):
    """Trains on this process's own device, or over model-parallel ranks that read the same samples."""

    name = "single"
    needs_peers = False

    def describe(self) -> dict[str, Any]:  # Any: JSON values
        """Return the name and the size."""
        return {"name": self.name, "world_size": self.mesh.world.size}
