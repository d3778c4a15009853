"""Seeds that do not collide, and the state of every host random stream, saved and restored.

A device adds its own streams to the bundle (``Device.rng_state``); data order never uses a device's stream.
"""

import hashlib
import random
from typing import Any


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``path``, e.g. ``derive_seed(0, "epoch", 3)``.

    Streams with different names are independent whatever the seeds, unlike ``seed + 3``.
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_host(seed: int) -> None:
    """Seed Python's, numpy's and torch's host generators from ``seed``."""
    import numpy as np
    import torch

    random.seed(derive_seed(seed, "python"))
    np.random.seed(derive_seed(seed, "numpy") % 2**32)
    torch.manual_seed(derive_seed(seed, "torch"))


def host_rng_state() -> dict[str, Any]:  # Any: each library has its own state type; all are picklable
    """Return the state of Python's, numpy's and torch's host generators."""
    import numpy as np
    import torch

    numpy_state = np.random.get_state(legacy=False)
    twister = numpy_state["state"]
    return {
        "python": list(_flatten(random.getstate())),
        "numpy": [
            str(numpy_state["bit_generator"]),
            torch.tensor(twister["key"].astype("int64")),
            int(twister["pos"]),
            int(numpy_state["has_gauss"]),
            float(numpy_state["gauss"]),
        ],
        "torch": torch.get_rng_state(),
    }


def set_host_rng_state(state: dict[str, Any]) -> None:  # Any: see host_rng_state
    """Restore what ``host_rng_state`` returned."""
    import numpy as np
    import torch

    version, *words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])


def _flatten(state: tuple[Any, ...]) -> tuple[Any, ...]:  # Any: Python gives its state no narrower type
    version, words, gauss = state
    return (version, *words, gauss)
