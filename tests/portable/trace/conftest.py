"""A corpus of a few sentences, and a package with slightly wrong kernels for the simulated accelerator."""

from pathlib import Path

import pytest

from portable.core.artefact import seal
from portable.core.record import Document
from portable.data.config import TokenizerConfig
from portable.data.format.corpus import LineWriter
from portable.data.shard import ShardWriter
from portable.data.tokenizer import train_tokenizer
from tests.plugins import install


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus")
    things = ("list", "string", "number", "file", "set", "dict")
    texts = [f"The method copies a {one} and sorts the {other}." for one in things for other in things]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=280))
    tokenizer.save(path / "tokenizer")
    for side in ("train", "heldout"):
        with LineWriter(path / "documents" / f"{side}.jsonl.zst") as writer:
            for number, text in enumerate(texts):
                writer.write_document(Document(text, f"{side}-{number}"))
        with ShardWriter(
            path / "tokens" / side, vocab_size=tokenizer.vocab_size, end_of_text_id=tokenizer.end_of_text_id
        ) as shards:
            for text in texts:
                shards.add([*tokenizer.encode(text), tokenizer.end_of_text_id], len(text.encode()))
    seal(path, "corpus", ["documents", "tokenizer", "tokens"])
    return path


@pytest.fixture(scope="session")
def planted_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the package of ``planted.py`` is installed."""
    source = Path(__file__).with_name("planted.py").read_text()
    points = {"portable.kernels": {"planted": "planted_rows:ENTRIES"}}
    return install(tmp_path_factory.mktemp("site"), "planted-rows", points, {"planted_rows.py": source})
