from __future__ import annotations

import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.parallel.gradient import clip_gradients, gradient_norm, sum_partial_gradients
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard, Placement

ALONE = Mesh(Layout(), LocalGroup(), "cpu")


def shards_of(*gradients: torch.Tensor | None) -> list[ParameterShard]:
    shards = []
    for place, gradient in enumerate(gradients):
        parameter = nn.Parameter(torch.zeros(2, 2))
        parameter.grad = gradient
        shards.append(ParameterShard(f"w{place}", parameter, Placement((2, 2))))
    return shards


def test_a_norm_above_the_bound_is_scaled_to_it():
    shards = shards_of(torch.full((2, 2), 3.0), None)
    assert float(clip_gradients(shards, ALONE, 1.5)) == pytest.approx(6.0)
    assert float(shards[0].parameter.grad.norm()) == pytest.approx(1.5, rel=1e-5)
    assert shards[1].parameter.grad is None


def test_clipping_is_torchs_own_to_the_bit():
    torch.manual_seed(0)
    gradients = [torch.randn(2, 2) for _ in range(3)]
    shards = shards_of(*(gradient.clone() for gradient in gradients))
    theirs = [shard.parameter for shard in shards_of(*gradients)]
    norm = clip_gradients(shards, ALONE, 0.7)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, 0.7))
    for own, other in zip(shards, theirs, strict=True):
        assert torch.equal(own.parameter.grad, other.grad)


def test_a_norm_below_the_bound_is_left():
    shards = shards_of(torch.full((2, 2), 0.1))
    clip_gradients(shards, ALONE, 1.0)
    assert torch.equal(shards[0].parameter.grad, torch.full((2, 2), 0.1))


def test_zero_means_measure_only():
    shards = shards_of(torch.full((2, 2), 3.0))
    assert float(clip_gradients(shards, ALONE, 0.0)) == pytest.approx(6.0)
    assert torch.equal(shards[0].parameter.grad, torch.full((2, 2), 3.0))


def test_without_gradients_the_norm_is_zero():
    assert float(clip_gradients(shards_of(None), ALONE, 1.0)) == 0.0
    assert float(gradient_norm([], ALONE)) == 0.0


class Twice(LocalGroup):
    """Stands for two ranks that hold the same."""

    size = 2

    def all_reduce_many(self, tensors, op=None, *, factor=1.0):
        return [2 * tensor for tensor in tensors]


def test_partial_gradients_are_added_and_made_where_others_have_one():
    mesh = Mesh(Layout(), LocalGroup(), "cpu")
    mesh._groups["tp"] = Twice("tp")
    shards = shards_of(torch.ones(2, 2), None, torch.ones(2, 2))
    partial = [
        ParameterShard(shard.name, shard.parameter, shard.placement.summed_over("tp")) for shard in shards[:2]
    ]
    sum_partial_gradients([*partial, shards[2]], mesh)
    sums = [float(shard.parameter.grad.sum()) for shard in shards]
    assert sums == [8.0, 0.0, 4.0]
