"""What AMD's kernel driver says of its GPUs, read from ``/sys``: the library comes with torch.

Source: the amdgpu driver's KFD topology (``/sys/class/kfd/kfd/topology/nodes/*/properties``): a node with
SIMDs is a GPU; ``gfx_target_version`` is its arch; ``drm_render_minor`` leads to the card, which has a name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backends.rocm.capability import arch_of
from backends.torch_device.hardware_file import Chip

AMD = 0x1002  # PCI vendor
_KFD = "dev/kfd"
_TOPOLOGY = "sys/class/kfd/kfd/topology/nodes"
_LOCAL_HEAPS = ("1", "2")  # frame buffer, seen by the host or not


@dataclass(frozen=True, slots=True)
class KernelAnswer:
    """What the kernel said. ``vendor`` is the PCI vendor of the first GPU."""

    has_device: bool = False
    may_open: bool = False
    chips: tuple[Chip, ...] = ()
    vendor: int = AMD


def ask_kernel(root: Path = Path("/")) -> KernelAnswer:
    """Read the GPUs below ``root``."""
    device = root / _KFD
    if not device.exists():
        return KernelAnswer()
    nodes = [_properties(file) for file in sorted((root / _TOPOLOGY).glob("*/properties"), key=_node_number)]
    gpus = [(folder, node) for folder, node in nodes if int(node.get("simd_count", "0")) > 0]
    chips = tuple(
        Chip(
            arch=arch_of(int(node.get("gfx_target_version", "0"))),
            name=_product_name(root, node),
            memory_bytes=_local_bytes(folder),
        )
        for folder, node in gpus
    )
    vendor = int(gpus[0][1].get("vendor_id", str(AMD))) if gpus else AMD
    return KernelAnswer(True, os.access(device, os.R_OK | os.W_OK), chips, vendor)


def _node_number(file: Path) -> int:
    return int(file.parent.name) if file.parent.name.isdigit() else -1


def _properties(file: Path) -> tuple[Path, dict[str, str]]:
    """Return the node's folder and its properties; a node that we may not read has none."""
    return file.parent, _pairs(file)


def _pairs(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except OSError:  # the kernel hides nodes that a container was not given
        return {}
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in text.splitlines())}


def _local_bytes(folder: Path) -> int:
    banks = [_pairs(file) for file in folder.glob("mem_banks/*/properties")]
    return sum(int(bank.get("size_in_bytes", "0")) for bank in banks if bank.get("heap_type") in _LOCAL_HEAPS)


def _product_name(root: Path, node: dict[str, str]) -> str:
    minor = node.get("drm_render_minor", "")
    file = root / f"sys/class/drm/renderD{minor}/device/product_name"
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
