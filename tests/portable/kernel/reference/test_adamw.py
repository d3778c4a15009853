import pytest
import torch
from torch import nn

from portable.core.errors import ConfigError, ShapeError
from portable.kernel.reference.adamw import adamw

SETTINGS = {"lr": 0.05, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SHAPES = [(4, 3), (3, 9), (1, 5), (7,), (), (0, 3)]


def start(dtype, moments=None):
    stream = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=stream).to(dtype)) for shape in SHAPES]
    states = [[torch.zeros_like(p, dtype=moments or dtype) for p in params] for _ in range(2)]
    grads = [[torch.randn(shape, generator=stream).to(dtype) for shape in SHAPES] for _ in range(5)]
    return params, states, grads


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_five_steps_are_those_of_torch_to_the_bit(dtype, weight_decay):
    params, (exp_avgs, exp_avg_sqs), grads = start(dtype)
    theirs = [nn.Parameter(p.detach().clone()) for p in params]
    betas, decay = (SETTINGS["beta1"], SETTINGS["beta2"]), {"weight_decay": weight_decay}
    optimizer = torch.optim.AdamW(
        theirs, lr=SETTINGS["lr"], betas=betas, eps=SETTINGS["eps"], foreach=False, fused=False, **decay
    )
    for step, grad in enumerate(grads, start=1):
        adamw(params, grad, exp_avgs, exp_avg_sqs, step=step, **{**SETTINGS, **decay})
        for parameter, value in zip(theirs, grad, strict=True):
            parameter.grad = value
        optimizer.step()
        for place, parameter in enumerate(theirs):
            assert torch.equal(params[place], parameter)
            assert torch.equal(exp_avgs[place], optimizer.state[parameter]["exp_avg"])
            assert torch.equal(exp_avg_sqs[place], optimizer.state[parameter]["exp_avg_sq"])


def test_a_16_bit_parameter_with_float32_moments_is_rounded_once_a_step():
    params, (exp_avgs, exp_avg_sqs), grads = start(torch.bfloat16, moments=torch.float32)
    wide = [p.detach().float() for p in params]
    others = [[torch.zeros_like(p) for p in wide] for _ in range(2)]
    adamw(params, grads[0], exp_avgs, exp_avg_sqs, step=1, **SETTINGS)
    adamw(wide, [grad.float() for grad in grads[0]], *others, step=1, **SETTINGS)
    assert all(torch.equal(p, q.bfloat16()) for p, q in zip(params, wide, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(exp_avgs, others[0], strict=True))


def test_only_parameters_and_moments_are_written():
    params, (exp_avgs, exp_avg_sqs), grads = start(torch.float32)
    before = [grad.clone() for grad in grads[0]]
    adamw(params, grads[0], exp_avgs, exp_avg_sqs, step=1, **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(grads[0], before, strict=True))


def test_a_strided_parameter_is_updated_where_it_lies():
    whole = torch.ones(3, 8)
    dense = torch.ones(3, 4)
    for param in (whole[:, ::2], dense):
        state = [torch.zeros(3, 4)], [torch.zeros(3, 4)]
        adamw([param], [torch.ones(3, 4)], *state, step=1, **SETTINGS)
    assert torch.equal(whole[:, ::2], dense)
    assert torch.equal(whole[:, 1::2], torch.ones(3, 4))


def test_lists_and_step_are_checked():
    params, (exp_avgs, exp_avg_sqs), grads = start(torch.float32)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ShapeError, match="6, 5, 6, 6 params"):
        adamw(params, grads[0][:-1], exp_avgs, exp_avg_sqs, step=1, **SETTINGS)
    with pytest.raises(ShapeError, match=r"number 1 have shapes \(3, 9\), \(3, 8\)"):
        adamw(
            params,
            [g[..., :8] for g in grads[0][:4]] + grads[0][4:],
            exp_avgs,
            exp_avg_sqs,
            step=1,
            **SETTINGS,
        )
    with pytest.raises(ConfigError, match="step=0"):
        adamw(params, grads[0], exp_avgs, exp_avg_sqs, step=0, **SETTINGS)
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
