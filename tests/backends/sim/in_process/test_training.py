"""Whole programs of torch on the device against the CPU."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def train(model, batches, place, num_steps=3):
    """Return losses and final weights on the CPU."""
    model = copy.deepcopy(model).to(place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for batch in batches[:num_steps]:
        loss = model(batch.to(place)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach().cpu())
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.fixture
def block():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [torch.randn(2, 8, 32) for _ in range(3)]


def test_a_transformer_trains_as_on_the_cpu_bit_for_bit(block, batches, simulator):
    # The CPU's fused attention and fast path are other formulas; both sides take the same one here.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected_losses, expected_weights = train(block, batches, "cpu")
        losses, weights = train(block, batches, "sim")
    assert torch.equal(torch.stack(losses), torch.stack(expected_losses))
    assert all(map(torch.equal, weights, expected_weights))
    assert simulator.op_counts()["aten::copy_"] > 0
    assert simulator.fallback_counts() == {}


def test_attention_has_gradients():
    torch.manual_seed(0)
    host = [torch.randn(2, 4, 8, 16, requires_grad=True) for _ in range(3)]
    device = [tensor.detach().to("sim").requires_grad_() for tensor in host]
    for inputs in (host, device):
        nn.functional.scaled_dot_product_attention(*inputs, is_causal=True).square().sum().backward()
    for left, right in zip(host, device, strict=True):
        torch.testing.assert_close(right.grad.cpu(), left.grad, rtol=1e-5, atol=1e-5)


def test_autocast_computes_products_in_the_lower_format():
    linear = nn.Linear(4, 4).to("sim")
    tensor = torch.ones(2, 4, device="sim")
    with torch.autocast("sim", dtype=torch.bfloat16):
        product = linear(tensor)
        assert product.dtype == torch.bfloat16
        assert product.softmax(-1).dtype == torch.float32
        with pytest.raises(RuntimeError, match="autocast"):
            nn.functional.binary_cross_entropy(product.sigmoid().float(), torch.ones(2, 4, device="sim"))
    assert linear(tensor).dtype == torch.float32
    product.float().sum().backward()
    assert linear.weight.grad.dtype == torch.float32


def test_recomputation_repeats_dropout(block):
    layers = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).to("sim")
    tensor = torch.ones(4, 8, device="sim", requires_grad=True)
    gradients = []
    for again in (False, True):
        torch.sim.manual_seed(7)
        output = checkpoint(layers, tensor, use_reentrant=False) if again else layers(tensor)
        (gradient,) = torch.autograd.grad(output.sum(), tensor)
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_the_gradient_scaler_skips_a_step_with_infinities():
    linear = nn.Linear(2, 1).to("sim")
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("sim", init_scale=4.0)
    before = linear.weight.detach().clone()
    scaler.scale((linear(torch.ones(1, 2, device="sim")) * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(linear.weight, before)
    assert scaler.get_scale() == 2.0


def test_modules_and_tensors_name_the_device():
    tensor = torch.ones(2).sim()
    assert tensor.is_sim
    assert nn.Linear(2, 2).sim().weight.device == torch.device("sim:0")
    assert torch.get_device_module("sim") is torch.sim
    assert torch.accelerator.current_accelerator() == torch.device("sim")
    with torch.sim.device(1):
        assert torch.ones(1, device="sim").device.index == 1
    assert torch.sim.current_device() == 0
    assert torch.sim.get_device_properties().name == "sim"
