"""What the simulated accelerator can do by itself, and what it takes on from a chip that it imitates."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import yaml

from portable.config.search_path import conf_dir, plugin_conf_dirs
from portable.core.errors import ConfigError, did_you_mean
from portable.device.capability import (
    DTYPES,
    AttentionAbility,
    Capability,
    Feature,
    Role,
    Support,
    strategy_reasons,
)

_NATIVE, _EMULATED, _NONE = Support.native, Support.emulated, Support.none
_EIGHT_BIT_FLOATS = ("fp8_e4m3", "fp8_e5m2")
_REAL_CHIPS_ONLY = "{name} has no plug-in for simulated devices; use engine=native or engine=hf on them"
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "gather",
    "scatter",
    "send_recv",
    "coalesced",
)


def sim_capability(arch: str, communicator: str) -> Capability:
    """Return what the simulator does when it imitates nothing: all that the processor's kernels do."""
    eights = dict.fromkeys(_EIGHT_BIT_FLOATS, _NONE)
    return Capability(
        arch=arch,
        communicator=communicator,
        dtypes={
            Role.storage: dict.fromkeys(DTYPES, _NATIVE),
            Role.matmul: {**dict.fromkeys(DTYPES, _NATIVE), "bool": _NONE},
            Role.reduce: {**dict.fromkeys(DTYPES, _NATIVE), **eights},
            Role.collective: {**dict.fromkeys(DTYPES, _NATIVE)},
        },
        reduce_ops=dict.fromkeys(("sum", "mean", "max", "min", "product", "premul_sum"), _NATIVE),
        collectives=dict.fromkeys(COLLECTIVES, _NATIVE),
        features=(Feature.async_copy, Feature.pinned_memory),
        strategies=strategy_reasons("")
        | {
            "deepspeed": "DeepSpeed has no accelerator for simulated chips",
            "accelerate": "accelerate knows no simulated chips",
        },
        engines={
            "native": "",
            "hf": "",
            "vllm": _REAL_CHIPS_ONLY.format(name="vLLM"),
            "lmdeploy": _REAL_CHIPS_ONLY.format(name="LMDeploy"),
        },
    )


def imitated(own: Capability, chip: Capability) -> Capability:
    """Return ``own`` with the number formats, reductions and collectives of ``chip``.

    Compilers, kernels and engines stay ``own``: those of the chip do not run here.
    """
    return replace(
        own,
        dtypes=chip.dtypes,
        reduce_ops=chip.reduce_ops,
        collectives=chip.collectives,
        fp8=chip.fp8,
        attention=AttentionAbility(),
        features=tuple(feature for feature in own.features if chip.supports(feature)),
    )


def chip_capability(hardware: str) -> Capability:
    """Return what the chip of a ``conf/hardware`` file can do, as its vendor's backend states it.

    The vendor's own packages are not needed. Raises: ConfigError if there is no such file, or nothing is
    stated about its chip.
    """
    file = _file_of(hardware)
    record = yaml.safe_load(file.read_text(encoding="utf-8"))["hardware"]
    name = f"backends.{record['backend']}.capability"
    if importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"sim.like={file.stem}: the backend '{record['backend']}' states no chip's abilities ({name} is "
            "missing); choose hardware of another backend"
        )
    module = importlib.import_module(name)
    if not hasattr(module, "capability_of"):
        raise ConfigError(
            f"sim.like={file.stem}: what the backend '{record['backend']}' can do depends on the machine, so "
            "there is nothing to imitate; choose an accelerator"
        )
    return module.capability_of(record["arch"])


def chip_operators(hardware: str) -> list[str]:
    """Return the operators that the vendor's torch has kernels for; empty where nobody listed them."""
    record = yaml.safe_load(_file_of(hardware).read_text(encoding="utf-8"))["hardware"]
    spec = importlib.util.find_spec(f"backends.{record['backend']}")
    listed = Path(spec.origin).with_name("operators.txt") if spec is not None and spec.origin else None
    if listed is None or not listed.is_file():
        return []
    lines = listed.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _file_of(hardware: str) -> Path:
    folders = [folder / "hardware" for folder in (conf_dir(), *plugin_conf_dirs().values())]
    files = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yaml")}
    if hardware not in files:
        raise ConfigError(
            f"sim.like={hardware} names no hardware file; there are {', '.join(sorted(files))}."
            f"{did_you_mean(hardware, files)}"
        )
    return files[hardware]
