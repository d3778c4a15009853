"""A small policy that knows the form of a sum's answer and no sum: where reinforcement learning starts."""

import random
from pathlib import Path

import pytest
import torch

from portable.core.record import Batch
from portable.data.config import TokenizerConfig
from portable.data.task.arithmetic import ArithmeticTask
from portable.data.tokenizer import train_tokenizer
from portable.model.chat import render_chat
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime
from portable.train.next_token import next_token_loss

FORMAT_STEPS = 60


@pytest.fixture(scope="session")
def policy_dir(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    task, rng = ArithmeticTask(), random.Random(0)
    tokenizer = train_tokenizer(
        [*(problem.prompt + problem.answer for problem in task.problems()), "one and one and one are three"],
        TokenizerConfig(vocab_size=264),
    )
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_seq_len=64,
        init_std=0.12,
    )
    model = new_model(config, runtime.kernels, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    problems = task.problems()
    for _ in range(FORMAT_STEPS):
        chats = [
            render_chat(tokenizer, task.format_example(rng.choice(problems), rng, 0).messages)
            for _ in range(64)
        ]
        ids_BT = torch.tensor([chat.ids for chat in chats])
        learnt_BT = torch.tensor([chat.learnt for chat in chats])
        batch = Batch(
            ids_BT[:, :-1].contiguous(),
            ids_BT[:, 1:].contiguous(),
            learnt_BT[:, 1:].float(),
            torch.arange(ids_BT.shape[1] - 1).repeat(64, 1),
        )
        (next_token_loss(model, batch).loss / batch.num_terms).backward()
        optimizer.step()
        optimizer.zero_grad()
    path = tmp_path_factory.mktemp("policy")
    save_model(model, config, tokenizer, path)
    return path
