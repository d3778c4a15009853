"""What is seen of a step, and that seeing it changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from portable.kernel.entry import KernelEntry
from portable.kernel.op import find_op
from portable.kernel.reference.activation import swiglu
from portable.kernel.reference.norm import add_rms_norm
from portable.trace.replay import BACKWARD, FORWARD, UPDATE
from portable.trace.tracer import Phase, Tracer

SWIGLU = KernelEntry(op="swiglu", name="tested", backend="any", target="none:none")
ADD = KernelEntry(op="rms_norm", variant="add", name="tested", backend="any", target="none:none")
ADAMW = KernelEntry(op="adamw", name="tested", backend="any", target="none:none")


class Gate(nn.Module):
    def __init__(self, kernel: Callable[..., Tensor]) -> None:
        super().__init__()
        self.up = nn.Linear(6, 6, bias=False)
        self._swiglu = kernel

    def forward(self, x: Tensor) -> Tensor:
        return self._swiglu(x, self.up(x))


class Model(nn.Module):
    def __init__(self, tracer: Tracer | None = None, kernel: Callable[..., Tensor] = swiglu) -> None:
        super().__init__()
        torch.manual_seed(0)
        observed = kernel if tracer is None else tracer.observe(find_op("swiglu"), SWIGLU, kernel)
        self.first, self.second = Gate(observed), Gate(observed)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.second(self.first(x * scale)) + x


def run(model: nn.Module, tracer: Tracer | None) -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    if tracer is not None:
        tracer.phase = Phase.forward
    y = model(x, scale=2.0)
    if tracer is not None:
        tracer.phase = Phase.backward
    y.square().sum().backward()
    if tracer is not None:
        tracer.end_backward()
    return y.detach(), x.grad


def traced(kernel: Callable[..., Tensor] = swiglu) -> Tracer:
    tracer = Tracer(replays=True)
    model = Model(tracer, kernel)
    tracer.watch(model)
    run(model, tracer)
    return tracer


def test_numbers_are_those_of_the_untraced_step() -> None:
    tracer = Tracer(replays=True)
    model = Model(tracer)
    tracer.watch(model)
    for one, other in zip(run(model, tracer), run(Model(), None), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(model.parameters(), Model().parameters(), strict=True):
        assert one.shape == other.shape


def test_calls_are_noted_in_the_order_in_which_they_end() -> None:
    names = [node.name for node in traced().nodes]
    assert names == [
        "first.up",
        "first:swiglu",
        "first",
        "second.up",
        "second:swiglu",
        "second",
        "(model)",
    ]


def test_inputs_have_their_names_and_gradients_their_owners() -> None:
    nodes = {node.name: node for node in traced().nodes}
    assert list(nodes["first:swiglu"].inputs) == ["gate", "up"]
    assert list(nodes["(model)"].inputs) == ["x"]
    # x is used twice, by the first layer and by the sum: each contributes its own.
    gradient = nodes["(model)"].grad_inputs["x"]
    assert gradient.digest != nodes["first"].grad_inputs["x"].digest
    assert nodes["first"].backward_place < nodes["(model)"].backward_place
    assert nodes["second"].backward_place < nodes["first:swiglu"].backward_place


def test_nothing_is_noted_outside_of_the_step() -> None:
    tracer = Tracer(replays=True)
    model = Model(tracer)
    tracer.watch(model)
    model(torch.ones(2, 6))
    assert tracer.nodes == []
    assert tracer.replays == []


def test_a_further_call_of_the_same_module_has_a_number() -> None:
    tracer = Tracer()
    linear = nn.Linear(2, 2)
    tracer.watch(nn.Sequential(linear))
    tracer.phase = Phase.forward
    linear(linear(torch.ones(1, 2)))
    assert [node.name for node in tracer.nodes] == ["0", "0#2"]


def test_every_kernel_call_is_repeated_forward_and_backward() -> None:
    replays = traced().replays
    assert {replay.name for replay in replays} == {"first:swiglu", "second:swiglu"}
    for replay in replays:
        assert [deviation.phase for deviation in replay.deviations] == [FORWARD, BACKWARD]
        assert replay.failure is None


def test_a_kernel_that_loses_a_gradient_fails() -> None:
    replays = traced(lambda gate, up: swiglu(gate.detach(), up)).replays
    assert [replay.failure.phase for replay in replays if replay.failure] == [BACKWARD, BACKWARD]
    assert all(replay.failure.tensor == "gate" for replay in replays if replay.failure)


def test_a_wrong_kernel_fails_and_its_reference_does_not() -> None:
    replays = traced(lambda gate, up: swiglu(gate, up) * 1.0001).replays
    for replay in replays:
        assert replay.failure is not None
        assert replay.failure.phase == FORWARD
        assert replay.failure.ratio > 100
        assert replay.failure.reference_here == pytest.approx(1.0, abs=0.1)


def test_an_output_that_the_kernel_itself_uses_gets_the_gradient_of_others_only() -> None:
    tracer = Tracer(replays=True)
    kernel = tracer.observe(find_op("rms_norm", "add"), ADD, add_rms_norm)
    tracer.phase = Phase.forward
    x, residual = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    normed, total = kernel(x, residual, torch.ones(8))
    (normed * total).sum().backward()
    tracer.end_backward()
    (replay,) = tracer.replays
    assert replay.failure is None
    assert len(replay.deviations) == 2


def test_without_gradients_a_call_is_judged_at_once() -> None:
    tracer = Tracer(replays=True)
    kernel = tracer.observe(find_op("swiglu"), SWIGLU, swiglu)
    tracer.phase = Phase.forward
    with torch.no_grad():
        kernel(torch.ones(2), torch.ones(2, requires_grad=True))
    (replay,) = tracer.replays
    assert [deviation.phase for deviation in replay.deviations] == [FORWARD]


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (1.01, True)])
def test_what_an_update_writes_is_compared(factor: float, *, fails: bool) -> None:
    from portable.kernel.reference.adamw import adamw

    def update(*lists: list[Tensor], lr: float, **settings: float) -> None:
        adamw(*lists, lr=lr * factor, **settings)

    tracer = Tracer(replays=True)
    kernel = tracer.observe(find_op("adamw"), ADAMW, update)
    lists = [[torch.randn(4, generator=torch.Generator().manual_seed(place))] for place in range(2)]
    settings = {"step": 1, "lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}
    tracer.phase = Phase.update
    kernel(*lists, [torch.zeros(4)], [torch.zeros(4)], **settings)
    (replay,) = tracer.replays
    assert replay.name == "(optimizer):adamw"
    assert [deviation.phase for deviation in replay.deviations] == [UPDATE]
    assert (replay.failure is not None) == fails
    if replay.failure is not None:
        assert replay.failure.tensor == "params.0"
