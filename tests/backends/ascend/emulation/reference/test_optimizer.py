from __future__ import annotations

from types import ModuleType

import pytest
import torch

from tests.backends.ascend.emulation.oracle import close

pytestmark = pytest.mark.ascend_emulation

STEPS, LR, DECAY, BETAS, EPS = 4, 0.1, 0.2, (0.9, 0.95), 1e-8


@pytest.mark.parametrize("maximize", [False, True])
def test_adam_w_follows_torch(torch_npu: ModuleType, maximize: bool) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4), torch.randn(STEPS, 3, 4)
    weight = start.double().requires_grad_()
    torch_step = torch.optim.AdamW([weight], LR, BETAS, EPS, DECAY, maximize=maximize)
    var, m, v = start.npu(), torch.zeros(3, 4, device="npu"), torch.zeros(3, 4, device="npu")
    for step, gradient in enumerate(gradients):
        weight.grad = gradient.double()
        torch_step.step()
        powers = [beta**step for beta in BETAS]
        torch_npu.npu_apply_adam_w(
            *powers, LR, DECAY, *BETAS, EPS, gradient.npu(), None, False, maximize, out=(var, m, v)
        )
        close(var, weight.detach(), 1e-6, f"weight after step {step}")
    close(m, torch_step.state[weight]["exp_avg"], 1e-6, "m")
    close(v, torch_step.state[weight]["exp_avg_sq"], 1e-6, "v")


def test_adam_follows_torch(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4), torch.randn(STEPS, 3, 4)
    weight = start.double().requires_grad_()
    torch_step = torch.optim.Adam([weight], LR, BETAS, EPS)
    var, m, v = start.npu(), torch.zeros(3, 4, device="npu"), torch.zeros(3, 4, device="npu")
    for step, gradient in enumerate(gradients, 1):
        weight.grad = gradient.double()
        torch_step.step()
        powers = [beta**step for beta in BETAS]
        torch_npu.npu_apply_adam(*powers, LR, *BETAS, EPS, gradient.npu(), False, False, out=(var, m, v))
        # epsilon is added to another root; it is small against the gradients here.
        close(var, weight.detach(), 1e-5, f"weight after step {step}")


def test_amsgrad_is_refused(torch_npu: ModuleType) -> None:
    x = torch.ones(2, device="npu")
    with pytest.raises(NotImplementedError, match="amsgrad"):
        torch_npu.npu_apply_adam_w(0.9, 0.9, 0.1, 0.0, 0.9, 0.9, 1e-8, x, x, True, False, out=(x, x, x))
