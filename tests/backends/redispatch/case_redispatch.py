"""What the boxed kernel promises, each a function that fails by itself; needs a process of its own."""

from __future__ import annotations

import threading
import traceback
import warnings

import pytest
import torch

DEVICE = "sim"


def ramp(*shape: int) -> torch.Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float32).reshape(shape).to(DEVICE)


def check_in_place_returns_the_very_same_tensor() -> None:
    x = ramp(2, 3)
    version = x._version
    assert x.add_(1) is x
    assert x._version == version + 1
    assert x.cpu().tolist() == [[1, 2, 3], [4, 5, 6]]


def check_views_share_storage_base_and_version() -> None:
    x = ramp(4, 3)
    view = x[1:].t()
    assert view._base is x
    view.zero_()
    assert x._version == 1
    assert x.cpu()[1:].eq(0).all()
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def check_a_gradient_flows_through_a_view_written_in_place() -> None:
    x = ramp(4).requires_grad_()
    y = x * 2
    y[:2].mul_(3)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.cpu().tolist() == [6, 6, 2, 2]


def check_out_is_returned_and_grows_in_its_own_storage() -> None:
    out = torch.empty(0, device=DEVICE)
    neighbour = out.view(0)
    result = torch.add(ramp(3), 1, out=out)
    assert result is out
    assert out.cpu().tolist() == [1, 2, 3]
    # The storage grew in place, as it does on an accelerator, so another tensor on it sees the bytes.
    assert neighbour.untyped_storage().nbytes() == out.untyped_storage().nbytes() == 12


def check_out_of_the_right_size_keeps_its_strides() -> None:
    out = torch.full((3, 2), 7.0, device=DEVICE).t()
    torch.add(ramp(2, 3), 1, out=out)
    assert out.stride() == (1, 2)
    assert out.cpu().equal(ramp(2, 3).cpu() + 1)


def check_arguments_that_overlap_are_refused_as_on_the_cpu() -> None:
    x = ramp(4)
    with pytest.raises(RuntimeError, match=r"unsupported operation|overlap"):
        x[1:].add_(x[:-1])
    with pytest.raises(RuntimeError, match=r"unsupported operation|memory location"):
        ramp(1).expand(3).add_(1)


def check_a_scalar_of_the_host_is_a_legal_operand() -> None:
    result = ramp(3) + torch.tensor(1.0)
    assert result.device.type == DEVICE
    assert torch.where(ramp(3) > 0, ramp(3), torch.tensor(-1.0)).cpu().tolist() == [-1, 1, 2]


def check_a_tensor_of_the_host_is_not() -> None:
    for call in (
        lambda: ramp(2, 2) @ torch.ones(2, 2),
        lambda: ramp(2) + torch.ones(2),
        lambda: torch.ones(2).add_(ramp(2)),
        lambda: torch.tensor(1.0).add_(ramp(1)[0]),
        lambda: torch.cat([ramp(2), torch.ones(2)]),
        lambda: ramp(3).index_select(0, torch.tensor([0])),
        lambda: ramp(3).gather(0, torch.tensor([0])),
    ):
        with pytest.raises(RuntimeError, match=r"[Ee]xpected all tensors to be on the same device"):
            call()


def check_two_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.mm(ramp(2, 2), ramp(2, 2).to(f"{DEVICE}:1"))


def check_indices_may_lie_on_the_host() -> None:
    x = ramp(4)
    assert x[torch.tensor([3, 0])].cpu().tolist() == [3, 0]
    x[torch.tensor([1])] = 9
    assert x.cpu()[1] == 9


def check_factories_obey_their_device() -> None:
    assert torch.zeros(2, device=f"{DEVICE}:1").device == torch.device(DEVICE, 1)
    assert torch.empty_like(torch.ones(2), device=DEVICE).device.type == DEVICE
    assert torch.empty_like(ramp(2), device="cpu").device.type == "cpu"
    assert ramp(2).to("cpu", torch.int64).tolist() == [0, 1]


def check_lists_of_tensors() -> None:
    parts = ramp(6).split(2)
    assert [part.device.type for part in parts] == [DEVICE] * 3
    torch._foreach_add_(list(parts), 1)
    assert torch.cat(parts).cpu().tolist() == [1, 2, 3, 4, 5, 6]


def check_conjugate_and_negative_bits() -> None:
    z = torch.complex(ramp(3), ramp(3))
    conjugate = z.conj()
    assert conjugate.is_conj()
    assert conjugate.cpu().equal(z.cpu().conj())
    assert (conjugate * 1).cpu().imag.tolist() == [0, -1, -2]
    assert conjugate.imag.is_neg()
    assert conjugate.imag.clone().cpu().tolist() == [0, -1, -2]


def check_sparse_and_quantised_are_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"_to_sparse.*plain strided"):
        ramp(2, 2).to_sparse()
    with pytest.raises(NotImplementedError, match=r"quantize_per_tensor.*plain strided"):
        torch.quantize_per_tensor(ramp(2), 0.1, 0, torch.quint8)


def check_an_operator_without_a_cpu_kernel_is_refused_by_name() -> None:
    with pytest.raises(NotImplementedError, match=r"aten::_cudnn_init_dropout_state.*no CPU kernel"):
        torch._cudnn_init_dropout_state(0.5, True, 1, dtype=torch.uint8, device=DEVICE)


def check_a_freed_storage_is_not_read() -> None:
    x = ramp(8)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"aten::mul.*needs 32 bytes but its storage holds 0"):
        x * 2
    x.view(2, 4)  # its description may still be used
    x.untyped_storage().resize_(32)
    assert x.fill_(1).sum().item() == 8


def check_a_result_that_repeats_its_storage() -> None:
    y = torch.ones(1, device=DEVICE).expand(3)
    assert y.stride() == (0,)
    assert torch.broadcast_tensors(ramp(1), ramp(3))[0].stride() == (0,)


def check_random_numbers_come_from_the_device() -> None:
    layers = (
        lambda: torch.rand(8, device=DEVICE),
        lambda: torch.randperm(8, device=DEVICE),
        lambda: torch.nn.functional.dropout(torch.ones(64, device=DEVICE)),
        lambda: torch.nn.functional.rrelu(-torch.ones(8, device=DEVICE), training=True),
        lambda: torch.multinomial(torch.ones(8, device=DEVICE), 4),
    )
    for layer in layers:
        host_state = torch.default_generator.get_state()
        torch.get_device_module(DEVICE).manual_seed_all(3)
        first, second = layer(), layer()
        torch.get_device_module(DEVICE).manual_seed_all(3)
        assert layer().cpu().equal(first.cpu())
        assert not second.cpu().equal(first.cpu())
        assert torch.default_generator.get_state().equal(host_state)


def check_recurrent_cells_and_their_gradients() -> None:
    for make in (torch.nn.LSTM, torch.nn.GRU):
        torch.manual_seed(0)
        layer, x = make(5, 4, bias=True), torch.randn(3, 2, 5)
        expected = layer(x)[0]
        expected.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in layer.parameters()]
        layer.zero_grad()
        layer.to(DEVICE)
        actual = layer(x.to(DEVICE))[0]
        actual.square().sum().backward()
        torch.testing.assert_close(actual.cpu(), expected)
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.cpu(), gradient)


def check_attention_is_the_cpus_fused_one() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 8, 16, requires_grad=True) for _ in range(3))
    device = [tensor.detach().to(DEVICE).requires_grad_() for tensor in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    actual = torch.nn.functional.scaled_dot_product_attention(*device, is_causal=True)
    assert actual.cpu().equal(expected)
    expected.sum().backward()
    actual.sum().backward()
    assert all(a.grad.cpu().equal(b.grad) for a, b in zip(device, (q, k, v), strict=True))


def check_autocast_of_the_host_does_not_reach_inside() -> None:
    x = ramp(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.linalg.multi_dot([x, x, x]).dtype == torch.float32


def check_threads() -> None:
    x, failures = ramp(16, 16), []

    def work() -> None:
        for _ in range(200):
            if not (x @ x).cpu().equal(x.cpu() @ x.cpu()):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


CASES = sorted(name for name in globals() if name.startswith("check_"))


def run() -> dict[str, str]:
    """Run every case; return the traceback of each, empty if it passed."""
    from backends.sim.runtime import activate

    activate()
    warnings.simplefilter("ignore")
    outcomes = {}
    for name in CASES:
        try:
            globals()[name]()
            outcomes[name] = ""
        except (Exception, pytest.fail.Exception):  # noqa: BLE001 - pytest.raises fails by the latter
            outcomes[name] = traceback.format_exc(limit=-3)
    return outcomes
