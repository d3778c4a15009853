"""The judge must see what a device could do wrong; here the CPU plays both parts."""

import pytest
import torch

from tests.conformance.sample import Outcome, Placement, run
from tests.conformance.verdict import Kind, Measure, is_as_near, judge, refusal

CPU = torch.device("cpu")
MEASURE = Measure(CPU)
X = torch.arange(6.0).reshape(2, 3).requires_grad_()


def verdict(cpu, device, measure=MEASURE):
    outcomes = [
        run(lambda place, call=call: call(place, place(X)), CPU, differentiable=lambda result: result)
        for call in (cpu, device)
    ]
    return judge(*outcomes, measure)


def right(_place: Placement, x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_the_same_call_is_exact():
    assert verdict(right, right).kind is Kind.exact


def test_a_difference_in_the_last_bit_is_close():
    assert verdict(right, lambda place, x: torch.nextafter(x * 2, x * 2 + 1)).kind is Kind.close


WRONG = {
    "value": lambda place, x: x * 2 + 1e-3,
    "nan": lambda place, x: x * torch.nan,
    "shape": lambda place, x: (x * 2)[None],
    "dtype": lambda place, x: (x * 2).double(),
    "gradient": lambda place, x: x * 2 + (x - x.detach()),
    "no gradient": lambda place, x: x * 2 if x.sum() < 0 else (x.detach() * 2).requires_grad_(),
    "number of results": lambda place, x: (x * 2, x * 2),
    "view of the input": lambda place, x: x.detach().mul_(2).requires_grad_(),
    "type of error": lambda place, x: x.nowhere,
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_fault_is_different(fault):
    assert verdict(right, WRONG[fault]).kind is Kind.different


def test_a_changed_input_is_different():
    def spoils(place: Placement, x: torch.Tensor) -> torch.Tensor:
        result = x * 2
        x.data[0, 0] = 99
        return result

    assert verdict(right, spoils).kind is Kind.different


def test_a_copy_in_place_of_a_view_is_different():
    assert verdict(lambda place, x: x.t(), lambda place, x: x.t().clone()).kind is Kind.different


def test_a_result_on_another_device_is_different():
    other = Measure(torch.device("meta"))
    assert verdict(right, right, other).kind is Kind.different


def test_only_a_runtime_error_with_a_message_is_a_refusal():
    assert refusal(NotImplementedError("aten::mm: no kernel")).kind is Kind.refused
    assert refusal(RuntimeError("")).kind is Kind.different
    assert refusal(RuntimeError("x INTERNAL ASSERT FAILED at y")).kind is Kind.different
    assert refusal(AttributeError("no attribute")).kind is Kind.different


def test_what_the_cpu_refuses_is_not_counted():
    failed = Outcome(error=RuntimeError("no"))
    assert judge(failed, failed, MEASURE).kind is Kind.not_counted


def test_what_the_cpu_keeps_the_device_must_keep():
    kept, lost = Outcome(notes={"keeps": True}), Outcome(notes={"keeps": False})
    assert judge(kept, lost, MEASURE).kind is Kind.different
    assert judge(lost, kept, MEASURE).kind is Kind.exact


def test_a_placement_keeps_layout_aliasing_and_bits():
    base = torch.arange(12.0).reshape(3, 4)
    place = Placement(CPU)
    view, again, conjugate = place([base.t()[1:], base, torch.complex(base, base).conj()])
    assert (view.stride(), view.storage_offset()) == ((1, 4), 1)
    assert view.untyped_storage().data_ptr() == again.untyped_storage().data_ptr() != base.data_ptr()
    assert conjugate.is_conj()
    assert place(base) is again


def test_another_order_of_rounding_is_as_near_and_a_wrong_value_is_not():
    torch.manual_seed(0)
    x = torch.randn(64, 64, dtype=torch.bfloat16)
    truth = Outcome(result=x.double() @ x.double())
    cpu = Outcome(result=x @ x)
    other_order = Outcome(
        result=sum((x[:, i : i + 16] @ x[i : i + 16]).float() for i in (0, 16, 32, 48)).bfloat16()
    )
    wrong = Outcome(result=(x @ x).index_fill(0, torch.tensor([3]), 1.0))
    assert is_as_near(cpu, other_order, truth)
    assert not is_as_near(cpu, wrong, truth)
