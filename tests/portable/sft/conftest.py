"""A tiny model with a trained tokenizer, as a folder, and a folder of conversations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from portable.core.artefact import seal
from portable.core.record import Conversation, Message
from portable.data.config import TokenizerConfig
from portable.data.tokenizer import train_tokenizer
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime

COLOURS = ["red", "green", "blue", "black", "white", "brown", "grey", "pink"]
THINGS = ["fox", "dog", "bird", "tree", "stone", "river", "cloud", "leaf"]


def make_conversation(number: int) -> Conversation:
    colour, thing = COLOURS[number % 8], THINGS[number // 8 % 8]
    turns = (
        Message("user", f"What colour is the {thing}?"),
        Message("assistant", f"The {thing} is {colour}."),
    )
    return Conversation(turns, f"conversation-{number}")


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    return [make_conversation(number) for number in range(64)]


@pytest.fixture(scope="session")
def tokenizer(conversations: list[Conversation]) -> Tokenizer:
    texts = [message.content for conversation in conversations for message in conversation.messages]
    return train_tokenizer(texts, TokenizerConfig(vocab_size=290))


@pytest.fixture(scope="session")
def model_config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        max_seq_len=128,
        init_std=0.1,
    )


@pytest.fixture
def model(model_config: ModelConfig, runtime: Runtime) -> Decoder:
    return new_model(model_config, runtime.kernels, seed=3)


@pytest.fixture(scope="session")
def model_dir(
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    runtime: Runtime,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(new_model(model_config, runtime.kernels, seed=3), model_config, tokenizer, path)
    return path


@pytest.fixture(scope="session")
def data_dir(conversations: list[Conversation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    (path / "conversations").mkdir()
    # Held-out questions are those of training, asked again: a tiny model can learn them, so scores can be
    # seen to rise.
    heldout = [replace(item, id=f"heldout-{item.id}") for item in conversations[:8]]
    for split, items in (("train", conversations[:16]), ("heldout", heldout)):
        lines = "".join(json.dumps(item.to_json()) + "\n" for item in items)
        (path / "conversations" / f"{split}.jsonl").write_text(lines)
    seal(path, "conversations", ["conversations"])
    return path
