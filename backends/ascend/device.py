"""Ascend NPUs as a device. Importing this module imports torch_npu."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
import torch_npu

from backends.ascend.capability import arch_of, capability_of
from backends.torch_device.device import TorchDevice
from backends.torch_device.software import engine_reasons, package_version
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, strategy_reasons

DETERMINISTIC = "HCCL_DETERMINISTIC"
_ENGINES = {"vllm": ("vllm", "vllm_ascend"), "lmdeploy": ("lmdeploy", "dlinfer")}
# Layouts that only the chip reads, each with the plain one of its shape (aclFormat; torch_npu.npu._format).
_ND, _NCHW, _NCDHW = 2, 0, 30
_PLAIN_OF = {
    **dict.fromkeys((29, 50, 51, 52, 53, 54), _ND),  # FRACTAL_NZ and its variants: matrices in tiles
    **dict.fromkeys((3, 4, 12), _NCHW),  # NC1HWC0, FRACTAL_Z, NC1HWC0_C04: images
    **dict.fromkeys((32, 33), _NCDHW),  # NDC1HWC0, FRACTAL_Z_3D: volumes
}


class AscendDevice(TorchDevice):
    """NPUs of one arch."""

    def __init__(self) -> None:
        arch = arch_of(torch.npu.get_device_name(0))
        super().__init__(
            name="ascend", vendor="huawei", torch_type="npu", capability=_usable(capability_of(arch))
        )
        # Operators then keep weights plain. What was made before, or elsewhere, to_portable still sees to.
        torch.npu.config.allow_internal_format = False

    def num_cores(self, properties: Any) -> int:  # Any: torch_npu's record
        """Return the cube cores, which multiply matrices."""
        return properties.cube_core_num

    def to_portable(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor`` in a plain layout: files and other devices cannot read the chip's own."""
        if tensor.device.type != self.torch_type:
            return tensor
        plain = _PLAIN_OF.get(int(torch_npu.get_npu_format(tensor)))
        return tensor if plain is None else torch_npu.npu_format_cast(tensor, plain)

    def set_deterministic(self, enabled: bool) -> None:
        """Choose reproducible operators.

        Raises: CapabilityError if HCCL, which reads its setting when it is loaded, was loaded without it.
        """
        if enabled and os.environ.get(DETERMINISTIC, "").lower() not in ("true", "strict"):
            raise CapabilityError(
                f"deterministic results need {DETERMINISTIC}=true before torch_npu is imported; found "
                f"{os.environ.get(DETERMINISTIC) or 'nothing'}; export it and start again"
            )
        super().set_deterministic(enabled)


def _usable(known: Capability) -> Capability:
    """Narrow what the arch can do to what is installed."""
    no_peers = "" if torch.distributed.is_available() else "this build of torch has no torch.distributed"
    # torch's compiler writes Triton; the Triton that knows NPUs is a package of its own.
    has_compiler = package_version("triton-ascend") is not None
    return replace(
        known,
        compile_backends=known.compile_backends if has_compiler else (),
        strategies=strategy_reasons(no_peers),
        engines=engine_reasons(_ENGINES),
    )
