"""torch's own modules and functions on the emulated chip against the CPU, at the CPU's precision."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.ascend_emulation

TOKENS, IMAGE, LINE = (2, 16, 32), (2, 4, 8, 8), (2, 4, 8)
MODULES = {
    "linear": (lambda: nn.Linear(32, 8), TOKENS),
    "encoder": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0), TOKENS),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), LINE),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), IMAGE),
    "batch-norm": (lambda: nn.BatchNorm2d(4), IMAGE),
    "group-norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "layer-norm": (lambda: nn.LayerNorm(32), TOKENS),
    "rms-norm": (lambda: nn.RMSNorm(32), TOKENS),
    "pool": (lambda: nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3)), IMAGE),
    **{
        kind.__name__: (kind, TOKENS)
        for kind in (nn.GELU, nn.SiLU, nn.Mish, nn.GLU, nn.LogSigmoid, nn.Softmin)
    },
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_their_gradients(torch_npu: ModuleType, name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    here = make()
    there = copy.deepcopy(here).to("npu")
    x = torch.randn(shape)
    ours, theirs = x.npu().requires_grad_(), x.clone().requires_grad_()
    out, expected = there(ours), here(theirs)
    weights = torch.randn_like(expected)
    (out * weights.npu()).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-5, atol=1e-5)
    for (key, left), right in zip(there.named_parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(left.grad.cpu(), right.grad, rtol=1e-5, atol=1e-5, msg=key)


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", ["plain", "transposed", "strided", "expanded"])
def test_copies_and_casts(torch_npu: ModuleType, view: str, dtype: torch.dtype) -> None:
    def look(x: Tensor) -> Tensor:
        return {
            "plain": x,
            "transposed": x.mT,
            "strided": x[::2, 1:6:3],
            "expanded": x[:, None].expand(-1, 3, -1),
        }[view]

    x = torch.randn(6, 7) * 3
    theirs, ours = look(x), look(x.npu())
    assert torch.equal(ours.to(dtype).cpu(), theirs.to(dtype))
    assert torch.equal(ours.contiguous().cpu(), theirs)
    assert torch.equal(ours.clone().cpu(), theirs)
    target = torch.zeros(theirs.shape, dtype=dtype)
    for there, here in ((target.npu(), ours), (target.npu(), theirs), (target.clone(), ours)):
        assert torch.equal(there.copy_(here).cpu(), theirs.to(dtype))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.AdamW, {"foreach": False}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "lr": 0.1}),
        (torch.optim.Adafactor, {}),
        (torch.optim.Muon, {}),
    ],
)
def test_optimisers(
    torch_npu: ModuleType, kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    here = nn.Linear(6, 5, bias=False)
    there = copy.deepcopy(here).to("npu")
    steps = [kind(model.parameters(), **options) for model in (here, there)]
    x = torch.randn(3, 6)
    for _ in range(3):
        for model, step in zip((here, there), steps, strict=True):
            step.zero_grad()
            model(x.to(model.weight.device)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step.step()
    torch.testing.assert_close(there.weight.cpu(), here.weight, rtol=1e-6, atol=1e-6)


def test_random_numbers_are_the_devices_own(torch_npu: ModuleType) -> None:
    torch.manual_seed(1)
    host = torch.get_rng_state()
    state = torch.npu.get_rng_state()
    first, second = torch.randn(8, device="npu"), torch.randn(8, device="npu")
    assert torch.equal(torch.get_rng_state(), host)
    assert not torch.equal(first, second)
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.randn(8, device="npu"), first)
    torch.manual_seed(1)
    assert torch.equal(torch.randn(8, device="npu"), first)
    assert not torch.equal(torch.randn(8), first.cpu())
    generators = [torch.Generator("npu").manual_seed(5) for _ in range(2)]
    draws = [torch.rand(8, device="npu", generator=generator) for generator in generators]
    assert torch.equal(draws[0], draws[1])
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(8, device="npu", generator=torch.Generator())


@pytest.mark.parametrize(("scale", "moves"), [(2.0**8, True), (2.0**17, False)], ids=["fits", "overflows"])
def test_scaled_mixed_precision(torch_npu: ModuleType, scale: float, moves: bool) -> None:
    model, scaler = nn.Linear(8, 8).npu(), torch.amp.GradScaler("npu", init_scale=scale)
    step = torch.optim.SGD(model.parameters(), 0.1)
    before = model.weight.detach().clone()
    with torch.autocast("npu", dtype=torch.float16):
        out = model(torch.randn(2, 8, device="npu"))
    assert out.dtype == torch.float16
    scaler.scale(out.float().sum()).backward()
    scaler.unscale_(step)
    scaler.step(step)
    scaler.update()
    assert torch.equal(model.weight, before) is not moves
    assert scaler.get_scale() == (scale if moves else scale / 2)


def test_saving_and_loading(torch_npu: ModuleType, tmp_path: Path) -> None:
    model = nn.Linear(3, 3).npu()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt")["weight"].device.type == "npu"
    assert torch.equal(torch.load(tmp_path / "x.pt", map_location="cpu")["weight"], model.weight.cpu())


def test_operands_on_host_and_device_do_not_mix(torch_npu: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="npu") + torch.ones(2)
