"""Documents to ids on disk, each closed by the end-of-text token."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from portable.core.record import Document
from portable.data.shard import ShardWriter, TokenShards
from portable.model.tokenizer import Tokenizer

_BATCH_DOCUMENTS = 256


def pack_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, path: Path, *, shard_tokens: int = 2**26
) -> TokenShards:
    """Tokenise ``documents`` into the shard folder ``path`` and open it.

    Special tokens spelled out in a text stay plain text: only the end of a document is an end-of-text token.
    """
    iterator = iter(documents)
    with ShardWriter(
        path,
        vocab_size=tokenizer.vocab_size,
        end_of_text_id=tokenizer.end_of_text_id,
        shard_tokens=shard_tokens,
    ) as writer:
        while batch := [document.text for document in islice(iterator, _BATCH_DOCUMENTS)]:
            for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                writer.add([*ids, tokenizer.end_of_text_id], len(text.encode()))
    return TokenShards.open(path)
