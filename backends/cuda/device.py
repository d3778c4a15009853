"""NVIDIA GPUs as a device: torch's module as it is, but for determinism and the compiler's needs."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from backends.cuda.capability import arch_of, capability_of
from backends.torch_device.device import TorchDevice
from backends.torch_device.software import engine_reasons, has_package
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, strategy_reasons

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# The two settings with which cuBLAS keeps the order of its sums: its documentation, "reproducibility".
REPRODUCIBLE_WORKSPACES = (":4096:8", ":16:8")
_ENGINES = {"vllm": ("vllm",), "lmdeploy": ("lmdeploy",)}


class CudaDevice(TorchDevice):
    """NVIDIA GPUs of one arch."""

    def __init__(self) -> None:
        arch = arch_of(*torch.cuda.get_device_capability(0))
        super().__init__(
            name="cuda", vendor="nvidia", torch_type="cuda", capability=_usable(capability_of(arch))
        )

    def set_deterministic(self, enabled: bool) -> None:
        """Choose reproducible operators. Raises: CapabilityError if cuBLAS lacks its setting."""
        if enabled and os.environ.get(WORKSPACE) not in REPRODUCIBLE_WORKSPACES:
            raise CapabilityError(
                f"deterministic results need {WORKSPACE}={REPRODUCIBLE_WORKSPACES[0]} before torch starts "
                f"the GPU; found {os.environ.get(WORKSPACE, 'nothing')}; export it and start again"
            )
        super().set_deterministic(enabled)
        # Autotuning picks convolutions by measured time, which differs from run to run.
        torch.backends.cudnn.benchmark = False


def _usable(known: Capability) -> Capability:
    """Narrow what the arch can do to what is installed."""
    distributed = torch.distributed
    has_transport = distributed.is_available() and distributed.is_nccl_available()
    no_peers = "" if has_transport else "this build of torch has no NCCL; install another"
    return replace(
        known,
        compile_backends=known.compile_backends if has_package("triton") else (),
        strategies=strategy_reasons(no_peers),
        engines=engine_reasons(_ENGINES),
    )
