"""Replace torch_npu's kernels in this process; ``boot/sitecustomize.py`` calls it behind the import."""

from __future__ import annotations

import importlib
import os

import torch

from backends.ascend.emulation.chip import denials, find_chip
from backends.ascend.emulation.operators import (
    KEPT_ATEN,
    KEPT_NPU,
    TORCH_AUTOGRAD,
    has_host_kernel,
    registered,
)
from backends.ascend.emulation.reference.registry import MODULES, REFERENCES
from backends.ascend.emulation.run import check_versions

_libraries: list[torch.library.Library] = []  # a library unregisters its kernels when it is collected


def install() -> None:
    """Let the host compute every operator that torch_npu would start on the chip, or refuse it by name."""
    if _libraries:
        return
    check_versions()
    for module in MODULES:
        importlib.import_module(f"backends.ascend.emulation.reference.{module}")
    torch.ops.load_library(os.environ["PORTABLE_ASCEND_KERNELS"])
    kernels = torch.ops.portable_ascend
    aten = [name for name in registered("aten") if name not in KEPT_ATEN]
    npu = [name for name in registered("npu") if name not in KEPT_NPU]
    kernels.run_on_host("aten", [name for name in aten if has_host_kernel(f"aten::{name}")])
    kernels.refuse("aten", [name for name in aten if not has_host_kernel(f"aten::{name}")])
    kernels.refuse("npu", npu)
    kernels.replace_stand_ins()
    kernels.replace_copies()
    kernels.guard_gradients()
    kernels.restore_autograd(list(TORCH_AUTOGRAD))
    _register_references()
    for denial in denials(find_chip(os.environ["PORTABLE_ASCEND_SOC"])):
        kernels.deny(denial.op, getattr(torch, denial.dtype), denial.reason)


def _register_references() -> None:
    for name_space in ("aten", "npu"):
        library = torch.library.Library(name_space, "IMPL")
        for name, function in REFERENCES.items():
            if name.startswith(f"{name_space}::"):
                library.impl(
                    name.removeprefix(f"{name_space}::"), function, "PrivateUse1", allow_override=True
                )
        _libraries.append(library)
