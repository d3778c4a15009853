"""What is chosen for a capability, looked at without any process group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from portable.collective.protocol import Collective, ReduceOp
from portable.collective.resolve import resolve
from portable.core.errors import CapabilityError
from portable.device.capability import Capability, Role, Support

NATIVE, EMULATED, NONE = Support.native, Support.emulated, Support.none


class Wire:
    """A transport that notes what it is asked to reduce, and adds up as if a twin of this rank were there."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.asked: list[tuple[Any, torch.dtype]] = []

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        self.asked.append((op, tensor.dtype))
        return tensor.mul_(2) if op == dist.ReduceOp.SUM else tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor])

    def reduce_scatter(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        return self.all_reduce(tensor.chunk(2)[0].clone(), op)

    send = recv = exchange = all_to_all = broadcast = gather = scatter = all_gather


def plan(
    reduce_ops: dict[str, Support], collectives: dict[str, Support], **dtypes: Support
) -> tuple[Any, Wire]:
    wire = Wire()
    capability = Capability(
        arch="any",
        communicator="wire",
        dtypes={
            Role.collective: {"fp32": NATIVE, "fp16": NATIVE, "int32": NATIVE, **dtypes},
            Role.reduce: {"fp64": EMULATED},
        },
        reduce_ops=reduce_ops,
        collectives=collectives,
    )
    return resolve(capability, wire), wire


FULL = {collective.name: NATIVE for collective in Collective}


def reduce(chosen: Any, op: ReduceOp, tensor: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    return chosen.reductions[op, tensor.dtype].all_reduce(tensor, factor)


def test_a_native_mean_is_asked_for():
    chosen, wire = plan({"mean": NATIVE, "sum": NATIVE}, FULL)
    reduce(chosen, ReduceOp.mean, torch.ones(2))
    assert wire.asked == [(dist.ReduceOp.AVG, torch.float32)]


def test_an_emulated_mean_is_a_sum_and_a_division():
    chosen, wire = plan({"mean": EMULATED, "sum": NATIVE}, FULL)
    assert reduce(chosen, ReduceOp.mean, torch.full((2,), 3.0)).tolist() == [3.0, 3.0]
    assert wire.asked == [(dist.ReduceOp.SUM, torch.float32)]


@pytest.mark.parametrize("support", [NATIVE, EMULATED])
def test_a_mean_of_halves_is_divided_first_even_where_a_mean_is_native(support: Support):
    chosen, wire = plan({"mean": support, "sum": NATIVE}, FULL)
    result = reduce(chosen, ReduceOp.mean, torch.full((2,), 60000.0, dtype=torch.float16))
    assert result.tolist() == [60000.0, 60000.0]
    assert wire.asked == [(dist.ReduceOp.SUM, torch.float16)]


def test_a_native_premultiplied_sum_carries_its_factor():
    chosen, wire = plan({"premul_sum": NATIVE}, FULL)
    reduce(chosen, ReduceOp.premul_sum, torch.ones(2), 0.25)
    assert wire.asked[0][0] == dist.ReduceOp.PREMUL_SUM


def test_an_emulated_premultiplied_sum_is_multiplied_before():
    chosen, _ = plan({"premul_sum": EMULATED, "sum": NATIVE}, FULL)
    mine = torch.ones(2)
    assert reduce(chosen, ReduceOp.premul_sum, mine, 0.25).tolist() == [0.5, 0.5]
    assert mine.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float32),
        (torch.float8_e5m2fnuz, torch.float32),
        (torch.int8, torch.int32),
        (torch.uint8, torch.int32),
        (torch.int16, torch.int32),
        (torch.complex64, torch.float32),
    ],
)
def test_formats_are_reduced_in_a_wider_one_and_come_back(dtype: torch.dtype, wide: torch.dtype):
    chosen, wire = plan(
        {"sum": NATIVE}, FULL, bf16=EMULATED, fp8_e4m3=EMULATED, int8=EMULATED, complex64=NATIVE
    )
    result = reduce(chosen, ReduceOp.sum, torch.ones(3).to(dtype))
    assert result.dtype is dtype
    assert result.to(torch.complex64).real.tolist() == [2.0] * 3
    assert wire.asked == [(dist.ReduceOp.SUM, wide)]
    assert dtype not in chosen.carried


def test_an_8_bit_float_is_widened_even_where_the_transport_would_add_it():
    chosen, wire = plan({"sum": NATIVE}, FULL, fp8_e4m3=NATIVE)
    reduce(chosen, ReduceOp.sum, torch.ones(2).to(torch.float8_e4m3fn))
    assert wire.asked == [(dist.ReduceOp.SUM, torch.float32)]
    assert torch.float8_e4m3fn in chosen.carried


def test_narrow_integers_wrap_around_as_their_own_format_does():
    chosen, _ = plan({"sum": NATIVE}, FULL, int8=EMULATED)
    assert reduce(chosen, ReduceOp.sum, torch.tensor([100], dtype=torch.int8)).tolist() == [-56]


@pytest.mark.parametrize(
    ("op", "asked"), [("sum", "MAX"), ("max", "MAX"), ("product", "MIN"), ("min", "MIN")]
)
def test_booleans_are_reduced_by_max_and_min(op: str, asked: str):
    chosen, wire = plan(dict.fromkeys(("sum", "max", "product", "min"), NATIVE), FULL, bool=NATIVE)
    result = reduce(chosen, ReduceOp[op], torch.tensor([True, False]))
    assert result.tolist() == [True, False]
    assert wire.asked == [(getattr(dist.ReduceOp, asked), torch.int32)]


def test_reductions_that_the_transport_lacks_are_made_of_a_gather():
    chosen, wire = plan(dict.fromkeys(("max", "product", "sum"), EMULATED), FULL)
    assert reduce(chosen, ReduceOp.product, torch.tensor([3.0])).tolist() == [9.0]
    assert reduce(chosen, ReduceOp.sum, torch.tensor(3.0)).item() == 6.0
    assert wire.asked == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_format_that_only_the_device_reduces_is_gathered_and_reduced_there(dtype: torch.dtype):
    chosen, wire = plan({"mean": NATIVE, "sum": NATIVE, "premul_sum": NATIVE}, FULL, fp64=EMULATED)
    mine = torch.tensor([1 / 3, -2.0], dtype=dtype)
    assert torch.equal(reduce(chosen, ReduceOp.sum, mine), 2 * mine)
    assert torch.equal(reduce(chosen, ReduceOp.mean, mine), mine)
    assert torch.equal(reduce(chosen, ReduceOp.premul_sum, mine, 0.25), mine / 2)
    assert torch.equal(chosen.reductions[ReduceOp.sum, dtype].reduce_scatter(mine, 1.0), 2 * mine[:1])
    assert wire.asked == []
    assert "by each rank itself" in chosen.choices["float64"]


def test_what_is_none_or_not_listed_is_refused_with_the_reason():
    chosen, _ = plan(
        {"sum": NATIVE, "max": NONE}, {**FULL, "gather": NONE, "scatter": EMULATED, "broadcast": NONE}
    )
    assert chosen.refused[ReduceOp.max, torch.float32].endswith("no max of float32; its reductions: sum")
    assert chosen.refused[Collective.gather] == "the communicator 'wire' has no gather"
    assert chosen.refused[Collective.scatter].endswith("no scatter, nor broadcast, of which it could be made")
    assert chosen.refused[torch.float64] == "the communicator 'wire' has no float64"
    assert (ReduceOp.sum, torch.float64) in chosen.refused
    assert chosen.choices["gather"] == chosen.refused[Collective.gather]


def test_a_reduction_without_its_collective_raises_only_when_called():
    chosen, _ = plan({"sum": NATIVE}, {"all_reduce": NATIVE})
    with pytest.raises(CapabilityError, match="no collective for the sum of float32"):
        chosen.reductions[ReduceOp.sum, torch.float32].reduce_scatter(torch.ones(2), 1.0)


def test_every_choice_is_told():
    chosen, _ = plan({"sum": NATIVE, "mean": EMULATED}, {**FULL, "gather": EMULATED})
    assert chosen.choices["all_reduce"] == "native"
    assert chosen.choices["gather"].startswith("emulated by all_gather: ")
    assert chosen.choices["mean"].startswith("emulated by sum: ")
    assert chosen.choices["premul_sum"] == "the communicator 'wire' has no premul_sum"
    assert chosen.choices["float16"] == "moved as it is, reduced as it is"
    assert chosen.choices["uint8"] == "moved as bytes, reduced as int32"
