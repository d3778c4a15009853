"""What the tests of the data package share."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from portable.core.record import Document
from portable.data.config import TokenizerConfig
from portable.data.shard import ShardWriter, TokenShards
from portable.data.tokenizer import train_tokenizer
from portable.model.tokenizer import Tokenizer

WORDS = (
    *("river", "stone", "lantern", "harbour", "winter", "copper", "meadow", "signal", "orchard", "thunder"),
    *("velvet", "compass", "bridge", "feather", "garden", "mirror", "canyon", "whisper", "ladder", "engine"),
    *("planet", "silver", "pepper", "market", "castle", "island", "shadow", "candle", "needle", "ribbon"),
)


@dataclass
class Recorder:
    """A quarantine that only remembers."""

    rows: list[tuple[str, int | None, str, str]] = field(default_factory=list)

    def __call__(self, file: str, line: int | None, reason: str, text: str) -> None:
        self.rows.append((file, line, reason, text))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_documents() -> Callable[[int], list[Document]]:
    """Distinct documents of some dozen English words."""

    def make(count: int) -> list[Document]:
        documents: list[Document] = []
        for number in range(count):
            words = random.Random(number).choices(WORDS, k=24)
            first, second = " ".join(words[:12]), " ".join(words[12:])
            text = f"Story {number} tells of the {first}.\n\nThen the {second} came."
            documents.append(Document(text, f"doc-{number}", {"number": number}))
        return documents

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE with few merges."""
    return train_tokenizer([" ".join(WORDS)] * 3, TokenizerConfig(vocab_size=300))


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., TokenShards]:
    """Shards of documents with the given numbers of tokens; every id tells document and place."""

    def make(lengths: list[int], *, shard_tokens: int = 2**20, name: str = "tokens") -> TokenShards:
        with ShardWriter(
            tmp_path / name, vocab_size=10_000, end_of_text_id=0, shard_tokens=shard_tokens
        ) as writer:
            for number, length in enumerate(lengths):
                ids = [(number + 1) * 100 + place for place in range(length - 1)]
                writer.add([*ids, 0], num_bytes=3 * length)
        return TokenShards.open(tmp_path / name)

    return make
