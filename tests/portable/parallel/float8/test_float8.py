"""8-bit matmuls: torch's own and the emulated ones agree, and gradients are those of the formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from portable.core.errors import ConfigError
from portable.device.capability import Capability, Role, Support
from portable.parallel.ability import check_compilation, check_float8
from portable.parallel.config import CompileConfig, Float8Config, ParallelConfig, RecomputeConfig
from portable.parallel.float8.linear import apply_float8, linear, make_scheme
from portable.parallel.float8.matmul import by_device, in_float32
from portable.parallel.float8.quantize import OCP, quantizers

LACKING = Capability(arch="toy", communicator="gloo", dtypes={}, reduce_ops={}, collectives={})
ABLE = replace(LACKING, dtypes={Role.matmul: dict.fromkeys(("fp8_e4m3", "fp8_e5m2"), Support.native)})


@pytest.mark.parametrize("rowwise", [False, True])
@pytest.mark.parametrize("shape", [(48, 64, 32), (37, 64, 32), (48, 37, 32)])
def test_emulated_products_are_those_of_the_device(shape: tuple[int, int, int], rowwise: bool):
    rows, inner, columns = shape
    stream = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=stream), torch.randn(columns, inner, generator=stream)
    value, gradient = quantizers(OCP, rowwise=rowwise)
    for quantize in (value, gradient):
        device = by_device(quantize(a), value(b), torch.bfloat16)
        emulated = in_float32(quantize(a), value(b), torch.bfloat16)
        torch.testing.assert_close(device, emulated, rtol=2**-7, atol=1e-5)  # one step of bf16
        torch.testing.assert_close(
            in_float32(quantize(a), value(b), torch.float32), a @ b.t(), rtol=0.1, atol=2.5
        )


def test_rounding_errs_by_half_a_step_at_most_and_keeps_the_largest():
    value, gradient = quantizers(OCP, rowwise=True)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 8)[:, None]
    for quantize, bits in ((value, 3), (gradient, 2)):
        scaled = quantize(x)
        peak = x.abs().amax(1, keepdim=True)
        torch.testing.assert_close(scaled.value.abs().amax(1, keepdim=True), peak)
        big = x.abs() > peak / 64  # smaller ones may be subnormal
        assert ((scaled.value - x).abs() <= x.abs() * 2.0 ** -(bits + 1) * 1.001)[big].all()
    assert not value(torch.zeros(4, 16)).value.any()


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_gradients_are_products_of_rounded_operands(recipe: str):
    scheme = make_scheme(Float8Config(recipe=recipe, emulate=True), LACKING)
    stream = torch.Generator().manual_seed(2)
    x = torch.randn(3, 16, 32, generator=stream, requires_grad=True)
    weight = torch.randn(48, 32, generator=stream, requires_grad=True)
    grad = torch.randn(3, 16, 48, generator=stream)
    linear(x, weight, None, scheme).backward(grad)
    rows, grad_rows = x.detach().flatten(0, 1), grad.flatten(0, 1)
    grad_x = scheme.gradient(grad_rows).value @ scheme.value(weight.detach().t()).value.t()
    grad_weight = scheme.gradient(grad_rows.t()).value @ scheme.value(rows.t()).value.t()
    torch.testing.assert_close(x.grad, grad_x.view_as(x))
    torch.testing.assert_close(weight.grad, grad_weight)


def test_only_fitting_layers_of_blocks_are_changed(caplog: pytest.LogCaptureFixture):
    block = nn.ModuleDict({"up": nn.Linear(32, 48), "odd": nn.Linear(32, 17), "left": nn.Linear(32, 32)})
    model = nn.ModuleDict({"blocks": nn.ModuleList([block]), "head": nn.Linear(32, 64)})
    names = apply_float8(model, Float8Config(recipe="rowwise", emulate=True, exclude=["left"]), LACKING)
    assert names == ["blocks.0.up"]
    assert "blocks.0.odd stays as it is" in caplog.text
    x = torch.randn(16, 32)
    assert not torch.equal(block["up"](x), nn.functional.linear(x, block["up"].weight, block["up"].bias))


def test_a_device_without_the_formats_is_told_so():
    asked = Float8Config(recipe="rowwise")
    with pytest.raises(ConfigError, match=r"hardware=toy_1 \(toy\) does not multiply .*emulate=true"):
        check_float8(asked, LACKING, "toy_1")
    check_float8(asked, ABLE, "toy_1")
    check_float8(Float8Config(recipe="rowwise", emulate=True), LACKING, "toy_1")
    assert make_scheme(asked, ABLE).matmul is by_device
    with pytest.raises(ConfigError, match=r"recipe=blockwise; use one of none, tensorwise, rowwise"):
        Float8Config(recipe="blockwise")


def test_what_cannot_be_compiled_is_refused():
    asked = ParallelConfig(compile=CompileConfig(enable=True))
    with pytest.raises(ConfigError, match=r"compile.enable=true, but hardware=toy_1 \(toy\) has no compiler"):
        check_compilation(asked, LACKING, "toy_1")
    able = replace(LACKING, compile_backends=("inductor",))
    check_compilation(asked, able, "toy_1")
    asked.recompute = RecomputeConfig(mode="budget")
    with pytest.raises(ConfigError, match=r"mode=budget chooses among single operators"):
        check_compilation(asked, able, "toy_1")
