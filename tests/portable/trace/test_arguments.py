"""Tensors inside arguments, by name."""

import torch

from portable.trace.arguments import (
    map_tensors,
    name_arguments,
    parameter_names,
    split_arguments,
    tensors_in,
)


def function(x, pair, *rest, flag=True):
    return x, pair, rest, flag


def test_arguments_are_named_and_split_as_they_were_given() -> None:
    names = parameter_names(function)
    assert names == ["x", "pair"]
    arguments = name_arguments(names, (1, 2, 3), {"flag": False})
    assert arguments == {"x": 1, "pair": 2, "2": 3, "flag": False}
    assert split_arguments(arguments, 3) == ((1, 2, 3), {"flag": False})


def test_tensors_are_found_in_tuples_lists_and_dicts() -> None:
    one, two = torch.ones(1), torch.zeros(2)
    value = {"x": one, "pair": (two, [one, 3]), "name": "word"}
    assert list(tensors_in(value)) == ["x", "pair.0", "pair.1.0"]
    assert tensors_in(one) == {"": one}
    doubled = map_tensors(value, lambda _, tensor: tensor * 2)
    assert isinstance(doubled["pair"], tuple)
    assert doubled["pair"][1][0].item() == 2.0
    assert doubled["pair"][1][1] == 3
    assert one.item() == 1.0
