"""How much of a tensor one program takes: tables of tile sizes by maker and arch, one kernel source for all.

``tuning/cuda.yaml`` and ``tuning/rocm.yaml`` hold what differs between GPUs; ``tuning/interpreter.yaml``
serves Triton's interpreter, where tiny tiles let tiny tensors reach every loop. The limits of the device
bound them.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml

from backends.cuda import capability as cuda
from backends.rocm import capability as rocm
from portable.device.capability import TileLimits

_TABLES = Path(__file__).with_name("tuning")
_INTERPRETER_LIMITS = TileLimits(warp_size=1, on_chip_bytes=2**30, max_grid=2**31 - 1)


@dataclass(frozen=True, slots=True)
class TileConfig:
    """The tile of one program: ``m`` rows and ``n`` columns, ``k`` steps of a sum, and how it is compiled."""

    m: int = 1
    n: int = 1
    k: int = 1
    num_warps: int = 4
    num_stages: int = 1

    @property
    def options(self) -> dict[str, int]:
        """What a launch hands to the compiler."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True, slots=True)
class Machine:
    """What the choice of tiles depends on."""

    table: str
    arch: str
    limits: TileLimits
    num_units: int  # multiprocessors or compute units


def tile(
    op: str, device: torch.device, variant: str = "", *, bytes_per_element: int = 0, shared_width: int = 0
) -> TileConfig:
    """Return the table's tile for ``op``, made smaller until its operands fit on the chip.

    The table's entry ``op_variant``, if it has one, goes before that of ``op``.

    A tile in flight holds ``m`` rows once and ``2 n`` rows for every stage, each of ``shared_width`` elements
    (0: not bounded).
    """
    found = machine(device)
    config = TileConfig(**_entry(found.table, found.arch, op, variant))
    budget = found.limits.on_chip_bytes

    def needed() -> int:
        return (config.m + 2 * config.n * config.num_stages) * shared_width * bytes_per_element

    while needed() > budget and (config.num_stages > 1 or config.n > 16 or config.m > 16):
        if config.num_stages > 1:
            config = replace(config, num_stages=config.num_stages - 1)
        elif config.n >= config.m and config.n > 16:
            config = replace(config, n=config.n // 2)
        else:
            config = replace(config, m=config.m // 2)
    return config


def row_tile(width: int, device: torch.device, op: str = "row") -> TileConfig:
    """Return a tile of whole rows of ``width`` elements: ``n`` covers the width, ``m`` rows share a
    program."""
    found = machine(device)
    entry = _entry(found.table, found.arch, op)
    n = _power_of_2(max(width, 1))
    m = max(1, entry["elements"] // n)
    threads = m * n // entry["elements_per_thread"]
    warps = _power_of_2(max(1, threads // found.limits.warp_size))
    return TileConfig(m=m, n=n, num_warps=min(warps, entry["max_warps"]))


def column_tile(width: int, device: torch.device, op: str = "column") -> TileConfig:
    """Return a tile that walks along one row of ``width`` elements in steps of ``n``."""
    config = tile(op, device)
    return replace(config, n=min(config.n, _power_of_2(max(width, 1))))


@lru_cache(maxsize=64)
def machine(device: torch.device) -> Machine:
    """Return what is known of ``device``; a CPU's tensors are the interpreter's."""
    if device.type == "cpu":
        return Machine("interpreter", "", _INTERPRETER_LIMITS, 4)
    properties = torch.cuda.get_device_properties(device)
    num_units = properties.multi_processor_count
    if torch.version.hip:
        return machine_of("rocm", properties.gcnArchName, num_units)
    return machine_of("cuda", cuda.arch_of(properties.major, properties.minor), num_units)


def machine_of(table: str, arch: str, num_units: int) -> Machine:
    """Return what is known of GPUs of ``arch``, whose maker's table is ``table``."""
    known = (rocm if table == "rocm" else cuda).capability_of(arch)
    return Machine(table, known.arch, known.tiles or _INTERPRETER_LIMITS, num_units)


def _power_of_2(number: int) -> int:
    """Return the least power of 2 that is not less than ``number``, 1 or more."""
    return 1 << (number - 1).bit_length()


@lru_cache(maxsize=256)
def _entry(table: str, arch: str, op: str, variant: str = "") -> dict[str, Any]:  # Any: numbers, by name
    """Return the default of ``op`` with what the table says of ``arch`` and of the variant instead."""
    content = _read(table)
    default, own = content["default"], content.get(arch, {})
    special = f"{op}_{variant}"
    return {**default[op], **own.get(op, {}), **default.get(special, {}), **own.get(special, {})}


@lru_cache(maxsize=8)
def _read(table: str) -> dict[str, Any]:  # Any: YAML
    return yaml.safe_load((_TABLES / f"{table}.yaml").read_text(encoding="utf-8"))
