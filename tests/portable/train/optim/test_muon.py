import pytest
import torch
from torch import nn, optim

from portable.core.errors import ConfigError
from portable.train.config import MuonConfig
from portable.train.optim.muon import build_muon
from tests.portable.train.support import TinyModel


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw():
    model = TinyModel(num_blocks=2)
    optimizer = build_muon(model, MuonConfig(lr=0.03, adamw_lr=0.004))
    muon, adamw = optimizer.parts
    assert isinstance(muon, optim.Muon)
    assert isinstance(adamw, optim.AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert hidden == {"blocks.0.inner.weight", "blocks.1.inner.weight"}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert rest == set(names.values()) - hidden
    assert {group["lr"] for group in muon.param_groups} == {0.03}
    assert {group["lr"] for group in adamw.param_groups} == {0.004}


def test_the_update_of_a_hidden_matrix_is_nearly_orthogonal():
    model = TinyModel(num_blocks=1)
    optimizer = build_muon(model, MuonConfig(lr=1.0))
    before = model.blocks[0].inner.weight.detach().clone()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    singular = torch.linalg.svdvals(model.blocks[0].inner.weight.detach() - before)
    assert singular.min() > 0.3
    assert singular.max() < 1.5


def test_a_frozen_model_with_plain_adapters_still_trains():
    model = TinyModel()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "blocks.1.inner.weight")
    assert len(build_muon(model, MuonConfig()).parts) == 1


def test_a_model_without_hidden_matrices_is_sent_to_adamw():
    with pytest.raises(ConfigError, match=r"optim=muon found no hidden matrix .* use optim=adamw"):
        build_muon(nn.Linear(2, 2), MuonConfig())
