from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.backends.ascend.emulation.oracle import check, close

pytestmark = pytest.mark.ascend_emulation


def test_linear(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    check(
        lambda x, w, b: torch_npu.npu_linear(x, w, b),
        lambda x, w, b: x @ w.T + b,
        torch.randn(4, 6),
        torch.randn(3, 6),
        torch.randn(3),
    )


@pytest.mark.parametrize(("kind", "groups"), [(0, [2, 2, 5]), (1, [2, 0, 3])], ids=["ends", "counts"])
@pytest.mark.parametrize("stacked", [True, False])
def test_groups_of_rows(torch_npu: ModuleType, stacked: bool, kind: int, groups: list[int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 6), torch.randn(3, 6, 4), torch.randn(3, 4)
    (out,) = torch_npu.npu_grouped_matmul(
        [x.npu()],
        [weight.npu()] if stacked else [w.npu() for w in weight],
        bias=[bias.npu()] if stacked else [b.npu() for b in bias],
        group_list=torch.tensor(groups, device="npu"),
        group_list_type=kind,
        group_type=0,
        split_item=3,
    )
    of_row = [0, 0, 2, 2, 2]
    expected = torch.stack([x[i].double() @ weight[e].double() + bias[e] for i, e in enumerate(of_row)])
    close(out, expected, 1e-6, "rows")


def test_separate_groups(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    xs, weights = [torch.randn(n, 4) for n in (2, 3)], [torch.randn(4, n) for n in (5, 6)]
    outputs = torch_npu.npu_grouped_matmul([x.npu() for x in xs], [w.npu() for w in weights], group_type=-1)
    for out, x, weight in zip(outputs, xs, weights, strict=True):
        close(out, x.double() @ weight.double(), 1e-6, "group")


def test_rows_without_a_group_are_rejected(torch_npu: ModuleType) -> None:
    x, weight = torch.randn(5, 4, device="npu"), torch.randn(2, 4, 4, device="npu")
    with pytest.raises(RuntimeError, match="leaves 1 rows"):
        torch_npu.npu_grouped_matmul(
            [x], [weight], group_list=torch.tensor([2, 4], device="npu"), group_type=0, split_item=2
        )


def test_dynamic_quant_keeps_the_largest_of_a_row(torch_npu: ModuleType) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 16, dtype=torch.float16)
    x[1, 1] = 0
    rows, scale = torch_npu.npu_dynamic_quant(x.npu())
    assert rows.dtype == torch.int8
    close(scale, x.double().abs().amax(-1) / 127, 1e-6, "scale")
    restored = rows.cpu().double() * scale.cpu().double()[..., None]
    assert (restored - x.double()).abs().max() <= 0.5 * scale.max().item() + 1e-6
    assert bool((rows.cpu()[1, 1] == 0).all())


@pytest.mark.parametrize("bias_dtype", [None, torch.int32, torch.float32])
def test_quant_matmul(torch_npu: ModuleType, bias_dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    x1, x2 = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((5, 32), (32, 6)))
    scale, rows = torch.rand(6) / 100, torch.rand(5) / 100
    bias = None if bias_dtype is None else (torch.randn(6) * 50).to(bias_dtype)

    def given(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.npu()

    out = torch_npu.npu_quant_matmul(
        x1.npu(),
        x2.npu(),
        scale.npu(),
        pertoken_scale=rows.npu(),
        bias=given(bias),
        output_dtype=torch.bfloat16,
    )
    product = x1.double() @ x2.double()
    if bias_dtype is torch.int32:
        product = product + bias
    expected = product * scale * rows[:, None]
    if bias_dtype is torch.float32:
        expected = expected + bias
    assert out.dtype == torch.bfloat16
    close(out, expected, 1e-2, "product")


def test_int8_results_are_refused(torch_npu: ModuleType) -> None:
    x = torch.ones(2, 2, dtype=torch.int8, device="npu")
    with pytest.raises(NotImplementedError, match="output_dtype"):
        torch_npu.npu_quant_matmul(x, x, torch.ones(2, device="npu"))


def test_grouped_matmul_add(torch_npu: ModuleType) -> None:
    """Groups along the inner dim, one of them empty, added to what is there."""
    torch.manual_seed(0)
    x, weight, start = torch.randn(9, 4).bfloat16(), torch.randn(9, 5).bfloat16(), torch.randn(3, 4, 5)
    ends = torch.tensor([4, 4, 9])
    out = torch_npu.npu_grouped_matmul_add(start.npu(), x.npu(), weight.npu(), ends.npu())
    groups = [slice(0, 4), slice(4, 4), slice(4, 9)]
    expected = start.double() + torch.stack([x[part].double().T @ weight[part].double() for part in groups])
    close(out, expected, 1e-6, "sums")
    with pytest.raises(RuntimeError, match="float16 or bfloat16"):
        torch_npu.npu_grouped_matmul_add(start.npu(), x.float().npu(), weight.float().npu(), ends.npu())
    with pytest.raises(RuntimeError, match="3 ends"):
        torch_npu.npu_grouped_matmul_add(start.npu(), x.npu(), weight.npu(), ends[1:].npu())
