"""AMD GPUs as a device: torch's ROCm build answers by the names of its CUDA build."""

from __future__ import annotations

from dataclasses import replace

import torch

from backends.rocm.capability import capability_of
from backends.torch_device.device import TorchDevice
from backends.torch_device.software import engine_reasons, has_package
from portable.device.capability import Capability, strategy_reasons

_NO_LMDEPLOY = "LMDeploy names no AMD GPUs among its platforms; use engine=vllm, engine=native or engine=hf"


class RocmDevice(TorchDevice):
    """AMD GPUs of one arch."""

    def __init__(self) -> None:
        arch = torch.cuda.get_device_properties(0).gcnArchName
        super().__init__(
            name="rocm", vendor="amd", torch_type="cuda", capability=_usable(capability_of(arch))
        )

    def set_deterministic(self, enabled: bool) -> None:
        """Choose reproducible operators; MIOpen must not pick its own by measured time."""
        super().set_deterministic(enabled)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = enabled


def _usable(known: Capability) -> Capability:
    """Narrow what the arch can do to what is installed."""
    distributed = torch.distributed
    has_transport = distributed.is_available() and distributed.is_nccl_available()  # torch's name for RCCL
    no_peers = "" if has_transport else "this build of torch has no RCCL; install another"
    return replace(
        known,
        compile_backends=known.compile_backends if has_package("triton") else (),
        strategies=strategy_reasons(no_peers),
        engines=engine_reasons({"vllm": ("vllm",)}, {"lmdeploy": _NO_LMDEPLOY}),
    )
