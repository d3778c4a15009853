"""Train a small network with DeepSpeed's ZeRO-3, which shards parameters, gradients and optimiser state.

torchrun --nproc-per-node 2 deepspeed_zero3.py LOSSES.json [--offload]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn


def configuration(offload: bool) -> dict[str, object]:
    """With ``offload`` the optimiser's state and step are on the host."""
    zero: dict[str, object] = {"stage": 3, "stage3_param_persistence_threshold": 0}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
    }


def build_network() -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(3)
    ]
    return nn.Sequential(nn.Embedding(50, 32), *blocks, nn.Linear(32, 50))


def main() -> None:
    deepspeed.init_distributed()
    rank, size = dist.get_rank(), dist.get_world_size()
    network = build_network()
    config = configuration(offload="--offload" in sys.argv)
    engine, *_ = deepspeed.initialize(model=network, model_parameters=network.parameters(), config=config)
    losses = []
    for step in range(6):
        torch.manual_seed(step)
        tokens = torch.randint(50, (4 * size, 16)).chunk(size)[rank].to(engine.device)
        loss = nn.functional.cross_entropy(engine(tokens).flatten(0, 1), (tokens.flatten() + 1) % 50)
        engine.backward(loss)
        engine.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / size)
    if rank == 0:
        device = get_accelerator().device_name()
        Path(sys.argv[1]).write_text(json.dumps({"device": device, "losses": losses}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
