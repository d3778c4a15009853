"""Train a small network with accelerate and its FSDP2 plugin.

torchrun --nproc-per-node 2 accelerate_fsdp2.py LOSSES.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x_BTD)
        x_BTD = x_BTD + self.attention(normed, normed, normed, need_weights=False)[0]
        return x_BTD + self.mlp(x_BTD)


def build_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 32), Block(), Block(), nn.Linear(32, 50))


def main() -> None:
    os.environ["ACCELERATE_USE_FSDP"] = "true"  # as `accelerate launch --use_fsdp` does
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["Block"]
    )
    accelerator = Accelerator(fsdp_plugin=plugin)
    network = build_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    network, optimizer = accelerator.prepare(network, optimizer)
    rank, size = accelerator.process_index, accelerator.num_processes
    losses = []
    for step in range(6):
        torch.manual_seed(step)
        tokens = torch.randint(50, (4 * size, 16)).chunk(size)[rank].to(accelerator.device)
        loss = nn.functional.cross_entropy(network(tokens).flatten(0, 1), (tokens.flatten() + 1) % 50)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    if accelerator.is_main_process:
        result = {
            "device": accelerator.device.type,
            "kind": accelerator.distributed_type.value,
            "losses": losses,
        }
        Path(sys.argv[1]).write_text(json.dumps(result))
    accelerator.end_training()


if __name__ == "__main__":
    main()
