"""Norms and host copies of tensors that may be sharded."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from portable.device.protocol import Device


def clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Scale gradients to a global 2-norm of at most ``max_norm`` (0: leave them); return the norm before, on
    every rank.
    """
    trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    norm = get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm > 0:
        clip_grads_with_norm_(trained, max_norm, norm)
    return norm


def host_state_dict(module: nn.Module, device: Device) -> dict[str, Tensor]:
    """Return full weights on the host, in torch's plain layout.

    With sharded parameters every rank must call it.
    """
    full: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        full[name] = device.to_portable(whole.detach()).to("cpu", copy=True)
    return full
