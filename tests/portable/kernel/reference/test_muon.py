import pytest
import torch
from torch import nn

from portable.core.errors import ShapeError
from portable.kernel.reference.muon import muon_step, newton_schulz

SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
SHAPES = [(12, 5), (5, 12), (8, 8), (1, 9), (9, 1), (1, 1)]


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_five_steps_are_those_of_torch_to_the_bit(shape, nesterov):
    param, buffer = nn.Parameter(numbers(*shape)), torch.zeros(shape)
    theirs = nn.Parameter(param.detach().clone())
    optimizer = torch.optim.Muon([theirs], nesterov=nesterov, **SETTINGS)
    stream = torch.Generator().manual_seed(1)
    for _ in range(5):
        grad = torch.randn(shape, generator=stream)
        muon_step(param, grad, buffer, nesterov=nesterov, **SETTINGS)
        theirs.grad = grad.clone()
        optimizer.step()
        assert torch.equal(param, theirs)
        assert torch.equal(buffer, optimizer.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (16, 16)])
def test_newton_schulz_keeps_directions_and_levels_singular_values(shape):
    matrix = numbers(*shape, dtype=torch.float64)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ newton_schulz(matrix) @ right.T
    torch.testing.assert_close(inside, inside.diagonal().diag())
    assert sizes.max() / sizes.min() > 2
    assert 0.6 < inside.diagonal().min() <= inside.diagonal().max() < 1.25


def test_float64_is_iterated_in_float64_and_all_else_in_bfloat16():
    matrix = numbers(6, 4)
    narrow, wide = newton_schulz(matrix), newton_schulz(matrix.double())
    assert (narrow.dtype, wide.dtype) == (torch.bfloat16, torch.float64)
    error = float((narrow - wide).abs().max())
    assert 1e-4 < error < 0.05


def test_newton_schulz_leaves_its_input_alone():
    matrix = numbers(6, 4, dtype=torch.bfloat16)  # no copy is needed to come to bfloat16
    before = matrix.clone()
    newton_schulz(matrix)
    assert torch.equal(matrix, before)


def test_a_16_bit_momentum_survives_a_step_without_nesterov():
    param, grad = numbers(4, 4, dtype=torch.bfloat16), numbers(4, 4, dtype=torch.bfloat16)
    buffer = torch.zeros_like(param)
    muon_step(param, grad, buffer, nesterov=False, **SETTINGS)
    assert torch.equal(buffer, torch.zeros_like(grad).lerp(grad, 1 - SETTINGS["momentum"]))


def test_a_zero_gradient_only_decays():
    param = torch.ones(3, 5)
    muon_step(param, torch.zeros(3, 5), torch.zeros(3, 5), **SETTINGS)
    torch.testing.assert_close(param, torch.full((3, 5), 1 - 0.05 * 0.1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_an_empty_matrix_has_nothing_to_do(shape):
    muon_step(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape), **SETTINGS)


@pytest.mark.parametrize("shapes", [((4,), (4,), (4,)), ((4, 3), (3, 4), (4, 3)), ((4, 3), (4, 3), (4, 4))])
def test_shapes_are_checked(shapes):
    with pytest.raises(ShapeError, match="matrices of one shape"):
        muon_step(*(torch.zeros(shape) for shape in shapes), **SETTINGS)
