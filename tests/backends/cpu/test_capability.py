"""The record of the CPU is compared with what torch does here, format by format."""

import pytest
import torch
import torch.distributed as dist

from backends.cpu.capability import cpu_capability
from portable.device.capability import DTYPES, Capability, Role, Support
from tests.processes import run_processes

CASES = [(role, name) for role in (Role.storage, Role.matmul, Role.reduce) for name in DTYPES]
WORK = {
    Role.storage: lambda x: x.clone(),
    Role.matmul: lambda x: x @ x,
    Role.reduce: lambda x: x.sum(-1),
}


@pytest.mark.parametrize(("role", "name"), CASES)
def test_torch_does_what_the_record_says_and_no_more(role, name):
    ones = torch.ones(16, 16).to(getattr(torch, DTYPES[name]))
    if cpu_capability("any").dtype(role, name) is Support.none:
        with pytest.raises(RuntimeError, match="not implemented"):
            WORK[role](ones)
    else:
        expected = {Role.storage: 1.0, Role.matmul: 16.0, Role.reduce: 16.0}[role]
        assert torch.all(WORK[role](ones).to(torch.complex64) == expected)


def test_transport_does_what_the_record_says_and_no_more(tmp_path):
    results = run_processes("tests.backends.cpu.test_capability:try_transport", 2, tmp_path)
    capability = cpu_capability("any")
    for done in results:
        for name, moved in done["dtypes"].items():
            assert moved == (capability.dtype(Role.collective, name) is Support.native), name
        for name, reduced in done["reduce_ops"].items():
            assert reduced == (capability.reduce_ops[name] is Support.native), name
        native = [name for name, support in capability.collectives.items() if support is Support.native]
        assert {name for name, called in done["collectives"].items() if called} == set(native)


def try_transport():
    """Call what the record speaks of on every rank, and tell what did not raise."""
    dist.init_process_group("gloo")
    ops = {name: getattr(dist.ReduceOp, name.upper()) for name in ("sum", "max", "min", "product")}
    ops |= {"mean": dist.ReduceOp.AVG, "premul_sum": dist._make_nccl_premul_sum(0.5)}
    dtypes = {
        name: _does_not_raise(lambda torch_name=torch_name: _sum_and_send(getattr(torch, torch_name)))
        for name, torch_name in DTYPES.items()
    }
    reduce_ops = {
        name: _does_not_raise(lambda op=op: dist.all_reduce(torch.ones(4), op=op)) for name, op in ops.items()
    }
    collectives = {name: _does_not_raise(call) for name, call in _calls().items()}
    dist.barrier()
    dist.destroy_process_group()
    return {"dtypes": dtypes, "reduce_ops": reduce_ops, "collectives": collectives}


def _calls():
    rank = dist.get_rank()
    one, two = torch.ones(1), torch.ones(2)
    on_first = [torch.ones(1), torch.ones(1)] if rank == 0 else None
    return {
        "all_reduce": lambda: dist.all_reduce(two),
        "all_gather": lambda: dist.all_gather_single(two, one),
        "reduce_scatter": lambda: dist.reduce_scatter_single(one, two),
        "all_to_all": lambda: dist.all_to_all_single(torch.empty(2), two),
        "broadcast": lambda: dist.broadcast(two, 0),
        "gather": lambda: dist.gather(one, on_first),
        "scatter": lambda: dist.scatter(one, on_first),
        "send_recv": lambda: dist.send(two, 1) if rank == 0 else dist.recv(two, 0),
    }


def _sum_and_send(dtype):
    dist.all_reduce(torch.ones(4).to(dtype))
    dist.broadcast(torch.ones(4).to(dtype), 0)


def _does_not_raise(call):
    try:
        call()
    except (RuntimeError, ValueError):
        return False
    return True


def test_native_formats_follow_the_instruction_set(monkeypatch):
    for found, bf16, fp16 in [
        ({}, Support.emulated, Support.emulated),
        ({"avx512_bf16": True}, Support.native, Support.emulated),
        ({"amx_fp16": True, "amx_bf16": False}, Support.emulated, Support.native),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        capability = cpu_capability("any")
        assert capability.dtype(Role.matmul, "bf16") is bf16
        assert capability.dtype(Role.matmul, "fp16") is fp16
        assert capability.dtype(Role.matmul, "fp32") is Support.native


def test_engines_and_strategies_come_with_reasons(monkeypatch):
    capability = cpu_capability("any")
    assert [name for name, reason in capability.engines.items() if not reason] == ["native", "hf"]
    assert "engine=native" in capability.engines["vllm"]
    assert set(capability.strategies.values()) == {""}
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    without = cpu_capability("any").strategies
    assert without["single"] == ""
    assert "torch.distributed" in without["fsdp"]


def test_the_record_survives_json():
    capability = cpu_capability("avx2")
    assert Capability.from_json(capability.to_json()) == capability


def test_the_largest_head_dim_is_attended_with():
    from backends.cpu.kernel.attention import attention
    from portable.kernel.reference.attention import attention as reference

    head_dim = cpu_capability("any").attention.max_head_dim
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(1, 3, heads, head_dim, generator=generator) for heads in (2, 1, 1))
    torch.testing.assert_close(attention(q, k, v), reference(q, k, v))
