from torch import nn

from portable.train.optim.kind import Kind, kinds_of
from tests.portable.train.support import TinyModel


def test_a_parameter_is_known_by_its_place():
    assert kinds_of(TinyModel(num_blocks=1)) == {
        "embed.weight": Kind.embedding,
        "blocks.0.norm.weight": Kind.vector,
        "blocks.0.norm.bias": Kind.vector,
        "blocks.0.inner.weight": Kind.hidden,
        "blocks.0.inner.bias": Kind.vector,
        "head.weight": Kind.outer,
    }
    assert kinds_of(nn.Embedding(2, 2)) == {"weight": Kind.embedding}


def test_blocks_in_a_dictionary_are_repeated_too_and_stacks_of_matrices_are_matrices():
    model = nn.ModuleDict({"blocks": nn.ModuleDict({"0": nn.Linear(2, 2, bias=False)})})
    model["blocks"]["0"].register_parameter(
        "experts", nn.Parameter(nn.init.zeros_(model["blocks"]["0"].weight[None].clone().detach()))
    )
    assert set(kinds_of(model).values()) == {Kind.hidden}
