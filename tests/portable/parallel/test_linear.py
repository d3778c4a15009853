from types import SimpleNamespace

import torch
from torch import nn

from portable.kernel.reference.linear import linear as reference
from portable.parallel.linear import apply_linear_kernels


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        block = nn.ModuleDict({"wide": nn.Linear(4, 6), "narrow": nn.Linear(6, 2, bias=False)})
        self.blocks = nn.ModuleDict({"0": block})
        self.head = nn.Linear(2, 9)


def kernels(kernel, wanted=lambda facts: True):
    def pick(op, **facts):
        assert op == "linear"
        return kernel if wanted(facts) else reference

    return SimpleNamespace(pick=pick)


def doubled(x, weight, bias):
    return 2 * reference(x, weight, bias)


def test_layers_in_blocks_use_the_row_for_their_sizes():
    model, x = Model(), torch.randn(3, 4)
    before = model.blocks["0"]["wide"](x)
    rows = kernels(doubled, lambda facts: facts == {"in_features": 4, "out_features": 6})
    assert apply_linear_kernels(model, rows) == ["blocks.0.wide"]
    assert torch.equal(model.blocks["0"]["wide"](x), 2 * before)


def test_nothing_changes_where_the_reference_is_picked():
    model = Model()
    assert apply_linear_kernels(model, kernels(reference)) == []
    assert all("forward" not in vars(module) for module in model.modules())


def test_products_of_another_pass_stay():
    model = Model()
    vars(model.blocks["0"]["wide"])["forward"] = torch.sin
    assert apply_linear_kernels(model, kernels(doubled)) == ["blocks.0.narrow"]
    assert model.blocks["0"]["wide"](torch.zeros(1)) == 0
