"""What runs in processes of its own: training on the simulated accelerator, sound or with a fault planted.

A fault is planted in the source text of one function, so that what is tested is our code as it stands, less
one line or with another word.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from portable.collective.protocol import ReduceOp
from portable.config.load import load
from portable.core.errors import PortableError
from portable.device.select import load_backend
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.model.rope import RotaryTable
from portable.parallel.build import build_runtime
from portable.parallel.runtime import Runtime
from portable.train.config import MuonConfig
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from portable.train.transfer import Transfer
from tests.portable.train.support import VOCAB, RowSource, train_config, workspace

MODEL = ModelConfig(
    vocab_size=VOCAB, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64
)


def plant(owner: type, name: str, old: str, new: str) -> None:
    """Replace ``old`` by ``new`` in the source of ``owner.name``, which must hold it."""
    function: Callable[..., Any] = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    mutated, found = re.subn(re.escape(old), new, source)
    if not found:
        raise LookupError(f"{owner.__name__}.{name} has no '{old}' any more; plant the fault elsewhere")
    space: dict[str, Any] = {}
    exec(compile(mutated, f"<{name} with a fault>", "exec"), vars(sys.modules[function.__module__]), space)
    setattr(owner, name, space[name])


FAULTS = {
    "none": lambda: None,
    "missing wait": lambda: plant(Transfer, "_arrive", "stream.wait_event(copy.done)", "pass"),
    "missing record_stream": lambda: plant(
        Transfer, "_arrive", "self.device.record_stream(tensor, stream)", "pass"
    ),
    "batch left on the host": lambda: plant(Transfer, "_start", ".to(self.target)", ""),
    "table left on the host": lambda: plant(
        RotaryTable, "__call__", "device = position_ids_BT.device", "device = torch.device('cpu')"
    ),
}


def train(fault: str, *overrides: str) -> dict[str, Any]:
    """Train two steps with ``fault`` planted; return losses or the error, and what ran where."""
    FAULTS[fault]()
    runtime = _runtime(*overrides)
    simulator = runtime.device.simulator
    model = new_model(MODEL, runtime.kernels, 0, device=runtime.torch_device)
    config = train_config(4, optim=MuonConfig())
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, next_token_loss, RowSource(2, 2), config, runtime, workspace(Path(folder)))
        simulator.reset_counts()
        try:
            with HostWork() as host:
                results = [trainer.train_step(trainer.source.next_batches()) for _ in range(2)]
                runtime.device.synchronize()
        except (RuntimeError, PortableError) as error:
            return {"error": f"{type(error).__name__}: {error}"}
    return {
        "error": "",
        "losses": [float(result.loss_mean) for result in results],
        "fallbacks": simulator.fallback_counts(),
        "device_ops": simulator.op_counts(),
        "host_ops": host.seen,
    }


class HostWork(TorchDispatchMode):
    """Notes arithmetic on floating-point host tensors of more than a few numbers."""

    IDLE = ("copy", "detach", "view", "empty", "pin_memory", "is_pinned", "slice", "clone", "alias")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Tensor)]
        busy = any(
            tensor.device.type == "cpu" and tensor.is_floating_point() and tensor.numel() > 16
            for tensor in tensors
        )
        if busy and not any(word in str(func) for word in self.IDLE):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def average(_: str = "") -> dict[str, Any]:
    """Average over two ranks on a chip whose communicator cannot: asked of it, and asked of our group."""
    runtime = _runtime("sim.like=ascend_910b", "strategy=ddp")
    group = runtime.group
    tensor = torch.full((3,), float(group.rank), device=runtime.torch_device)
    try:
        dist.all_reduce(tensor.clone(), op=dist.ReduceOp.AVG, group=group.process_group)
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    result = {
        "refused": refused,
        "ours": group.all_reduce(tensor, ReduceOp.mean).tolist(),
        "how": group.resolution()["mean"],
    }
    group.close()
    return result


def _runtime(*overrides: str) -> Runtime:
    job = load("pretrain", ["hardware=sim", "data=none", *overrides])
    load_backend("sim").configure(job.hardware)
    return build_runtime(job.hardware, job.strategy, job.precision, job.communicator, job.kernel)
