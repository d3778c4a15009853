"""What two ranks find out about the strategies that spread a model."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from portable.core.errors import PortableError
from portable.device.protocol import Dtype
from portable.parallel.build import STRATEGIES
from portable.parallel.config import DdpConfig, FsdpConfig, PrecisionConfig, SingleConfig
from portable.parallel.strategies.single import SingleStrategy
from portable.train.next_token import next_token_loss
from tests.portable.train.support import TinyModel, make_runtime, rows_to_batch


def run() -> dict[str, Any]:
    runtime = make_runtime("ddp")
    report = {
        "synced": _sync_pattern(runtime, "ddp"),
        "bf16_ddp": _gradient_difference(runtime, "ddp", PrecisionConfig(reduce_dtype=Dtype.bf16)),
        "bf16_fsdp": _gradient_difference(runtime, "fsdp", PrecisionConfig(compute_dtype=Dtype.bf16)),
        "fp32_fsdp": _gradient_difference(runtime, "fsdp", PrecisionConfig()),
        "unwrapped_ddp": _message(lambda: _strategy(runtime, "ddp").accumulate(nn.Linear(1, 1), last=True)),
        "unwrapped_fsdp": _message(lambda: _strategy(runtime, "fsdp").accumulate(nn.Linear(1, 1), last=True)),
        "wide_ddp": _gradient_difference(
            runtime, "ddp", PrecisionConfig(param_dtype=Dtype.bf16, compute_dtype=Dtype.bf16)
        ),
    }
    report["single"] = _message(
        lambda: SingleStrategy(SingleConfig(), PrecisionConfig(), runtime.group, runtime.device)
    )
    runtime.group.close()
    return report


def _strategy(runtime: Any, name: str, precision: PrecisionConfig | None = None) -> Any:
    config = {"ddp": DdpConfig, "fsdp": FsdpConfig}[name]()
    return STRATEGIES.get(name)(config, precision or PrecisionConfig(), runtime.group, runtime.device)


def _sync_pattern(runtime: Any, name: str) -> list[bool]:
    """Whether ranks agree on the gradient after each of two accumulated backward passes."""
    strategy = _strategy(runtime, name)
    model = TinyModel()
    wrapped = strategy.wrap(model)
    pattern = []
    for last in (False, True):
        strategy.accumulate(wrapped, last=last)
        batch = rows_to_batch([runtime.group.rank * 2 + last])
        strategy.backward(next_token_loss(wrapped, batch).loss)
        mine = model.head.weight.grad.norm()
        pattern.append(bool((runtime.group.all_gather(mine) == mine).all()))
    return pattern


def _gradient_difference(runtime: Any, name: str, precision: PrecisionConfig) -> float:
    """The largest relative error of a spread gradient (mean over ranks) against the plain fp32 one."""
    rank, size = runtime.group.rank, runtime.group.size
    plain = TinyModel()
    (next_token_loss(plain, rows_to_batch([0, 1])).loss / size).backward()
    strategy, model = _strategy(runtime, name, precision), TinyModel()
    wrapped = strategy.wrap(model)
    strategy.accumulate(wrapped, last=True)
    strategy.backward(next_token_loss(wrapped, rows_to_batch([rank])).loss)
    worst = 0.0
    for own, reference in zip(model.parameters(), plain.parameters(), strict=True):
        gradient = own.grad.full_tensor() if isinstance(own.grad, DTensor) else own.grad
        worst = max(worst, float((gradient.float() - reference.grad).norm() / (reference.grad.norm() + 1e-9)))
    return worst


def _message(call: Any) -> str:
    try:
        call()
    except PortableError as error:
        return str(error)
    return "no error"
