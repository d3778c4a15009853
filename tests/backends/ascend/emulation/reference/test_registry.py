from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.ascend_emulation


def schema_of(name: str) -> torch.FunctionSchema:
    base, _, overload = name.partition(".")
    return torch._C._get_schema(base, overload)


def test_references_have_the_parameters_of_their_schemas(torch_npu: ModuleType) -> None:
    from backends.ascend.emulation.reference.registry import REFERENCES

    assert len(REFERENCES) > 60
    for name, function in REFERENCES.items():
        expected = [argument.name for argument in schema_of(name).arguments]
        given = list(inspect.signature(function).parameters.values())
        # One function may serve an operator and its gradient; then the names differ but not the number.
        same = [parameter.name for parameter in given] == expected
        assert same or function.__name__ != name.split("::")[1].split(".")[0], name
        required = [
            argument.name for argument in schema_of(name).arguments if not argument.has_default_value()
        ]
        ours = [parameter.name for parameter in given if parameter.default is inspect.Parameter.empty]
        assert len(ours) <= len(required) or same, name


def test_every_operator_of_the_chip_is_referenced_kept_or_refused(torch_npu: ModuleType) -> None:
    operators = importlib.import_module("backends.ascend.emulation.operators")
    registry = importlib.import_module("backends.ascend.emulation.reference.registry")
    names = operators.registered("npu")
    assert len(names) > 400
    covered = {name.removeprefix("npu::") for name in registry.REFERENCES if name.startswith("npu::")}
    assert covered <= set(names), covered - set(names)
    assert set(names) >= operators.KEPT_NPU


def test_an_operator_without_reference_names_itself(torch_npu: ModuleType) -> None:
    x = torch.randn(4, 4, device="npu")
    with pytest.raises(NotImplementedError, match="npu::npu_ciou"):
        torch_npu.npu_ciou(x, x)
