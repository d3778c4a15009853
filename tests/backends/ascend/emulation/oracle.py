"""Compares an operator of the chip, and its gradient, with a plain formulation in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Outputs = Tensor | Sequence[Tensor]


def check(
    operator: Callable[..., Outputs],
    plain: Callable[..., Outputs],
    *inputs: Tensor,
    gradient: bool = True,
    rtol: float = 1e-5,
) -> None:
    """Run ``operator`` on device copies of ``inputs`` and ``plain`` on float64 copies; outputs must agree.

    Gradients are of a random sum of the first output, for every floating-point input. The error is measured
    against the largest magnitude of the expected tensor.
    """
    on_device = [_leaf(x.to("npu"), gradient) for x in inputs]
    exact = [_leaf(x.double() if x.is_floating_point() else x, gradient) for x in inputs]
    got, expected = _tensors(operator(*on_device)), _tensors(plain(*exact))
    for index, (ours, theirs) in enumerate(zip(got, expected, strict=False)):
        assert ours.device.type == "npu"
        close(ours, theirs, rtol, f"output {index}")
    if not gradient:
        return
    weights = torch.randn(expected[0].shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (expected[0] * weights).sum().backward()
    (got[0] * weights.to(got[0].dtype).to("npu")).sum().backward()
    for index, (ours, theirs) in enumerate(zip(on_device, exact, strict=True)):
        if theirs.requires_grad:
            assert ours.grad is not None, f"input {index} got no gradient"
            close(ours.grad, theirs.grad, rtol, f"gradient {index}")


def close(ours: Tensor, theirs: Tensor | None, rtol: float, what: str) -> None:
    assert theirs is not None
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    scale = max(theirs.abs().max().item(), 1.0) if theirs.numel() else 1.0
    error = (ours.cpu().double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0
    assert error <= rtol * scale, f"{what}: off by {error:.3g}, {error / scale:.3g} of the largest"


def _leaf(x: Tensor, gradient: bool) -> Tensor:
    return x.detach().clone().requires_grad_(gradient and x.is_floating_point())


def _tensors(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if isinstance(x, Tensor)]
