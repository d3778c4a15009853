"""Two tiny models, a corpus and conversations, as folders; and an engine that answers from a table."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from portable.core.artefact import seal
from portable.core.record import Conversation, Message
from portable.data.config import TokenizerConfig
from portable.data.shard import ShardWriter
from portable.data.tokenizer import train_tokenizer
from portable.engine.config import NativeEngineConfig
from portable.engine.request import Completion, Request, TokenStep
from portable.eval.config import EvalConfig
from portable.eval.task.protocol import Subject
from portable.model.config import ModelConfig
from portable.model.init import new_model
from portable.model.tokenizer import Tokenizer
from portable.model.weights import save_model
from portable.parallel.runtime import Runtime

TEXTS = [
    f"The {colour} fox number {n} jumps over the dog.\n\nSo it is."
    for n, colour in enumerate(["red", "green", "blue", "grey"] * 3)
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=290))


@pytest.fixture(scope="session")
def other_tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(vocab_size=275))


@pytest.fixture(scope="session")
def save(
    runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Tokenizer, int, float], Path]:
    """Write a model folder with fresh weights."""

    def write(tokenizer: Tokenizer, seed: int, init_std: float = 0.1) -> Path:
        config = ModelConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=16,
            intermediate_size=24,
            num_layers=1,
            num_heads=2,
            num_kv_heads=1,
            head_dim=8,
            max_seq_len=64,
            init_std=init_std,
        )
        path = tmp_path_factory.mktemp("model")
        save_model(new_model(config, runtime.kernels, seed), config, tokenizer, path)
        return path

    return write


@pytest.fixture(scope="session")
def model_dir(save: Callable[..., Path], tokenizer: Tokenizer) -> Path:
    return save(tokenizer, 0)


@pytest.fixture(scope="session")
def corpus(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus")
    tokenizer.save(path / "tokenizer")
    with ShardWriter(
        path / "tokens" / "heldout", vocab_size=tokenizer.vocab_size, end_of_text_id=tokenizer.end_of_text_id
    ) as writer:
        for text in TEXTS:
            writer.add([*tokenizer.encode(text), tokenizer.end_of_text_id], len(text.encode()))
    seal(path, "corpus", ["tokenizer", "tokens"])
    return path


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conversations")
    (path / "conversations").mkdir()
    items = [
        Conversation(
            (Message("user", f"Who is number {n}?"), Message("assistant", f"The fox number {n}.")), f"q{n}"
        )
        for n in range(10)
    ]
    lines = "".join(json.dumps(item.to_json()) + "\n" for item in items)
    (path / "conversations" / "heldout.jsonl").write_text(lines)
    seal(path, "conversations", ["conversations"])
    return path


@pytest.fixture
def config(model_dir: Path, corpus: Path, conversations: Path) -> EvalConfig:
    return EvalConfig(
        models={"base": str(model_dir)},
        corpus=str(corpus),
        conversations=str(conversations),
        max_new_tokens=6,
        num_resamples=50,
        num_samples=3,
    )


@pytest.fixture
def subject(model_dir: Path, runtime: Runtime, tmp_path: Path) -> Subject:
    return Subject("base", model_dir, runtime, NativeEngineConfig(max_batch_size=16), tmp_path / "scratch")


class TableEngine:
    """Answers by a rule over the prompt's text instead of by a model."""

    def __init__(self, tokenizer: Tokenizer, rule: Callable[[str], str], max_seq_len: int = 64):
        self.tokenizer = tokenizer
        self.rule = rule
        self.max_seq_len = max_seq_len
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        prompts = [self.tokenizer.decode(request.prompt_ids) for request in requests]
        return [Completion((), f" {self.rule(prompt)}\n", "stop") for prompt in prompts]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        yield from ()


@pytest.fixture
def with_rule(subject: Subject, tokenizer: Tokenizer) -> Callable[[Callable[[str], str]], Subject]:
    """Return the subject with its engine replaced by one that follows a rule."""

    def replaced(rule: Callable[[str], str], max_seq_len: int = 64) -> Subject:
        subject.__dict__["engine"] = TableEngine(tokenizer, rule, max_seq_len)
        return subject

    return replaced
