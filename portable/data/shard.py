"""Token shards: documents as ids on disk, memory-mapped, each with its length and the bytes it stands for.

A folder holds ``00000.bin``, ``00001.bin`` ... (bare little-endian ids, uint16 where the vocabulary allows
it, else uint32), ``documents.npy`` ((D, 2) int64: tokens and UTF-8 bytes of each document, in order) and
``index.json``, which is written last and tells how long everything must be. No document straddles two shards;
each ends with the end-of-text id.

Shapes: D documents, N tokens of one document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from portable.core.errors import ArtefactError, ConfigError, DataError
from portable.core.storage import atomic_path, explain_os_errors, read_json, write_json

INDEX, DOCUMENTS = "index.json", "documents.npy"
FORMAT = "portable-token-shards-1"
IntArray = NDArray[np.int64]
TokenArray = NDArray[np.uint16 | np.uint32]


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One ``.bin`` file: ``num_tokens`` ids of ``num_documents`` whole documents."""

    file: str
    num_documents: int
    num_tokens: int


def token_dtype(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """Return the narrowest of uint16 and uint32 that holds every id below ``vocab_size``."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


class ShardWriter:
    """Writes a shard folder document by document; used as a context manager, which finishes it.

    An exception inside the block leaves a folder without an index, which ``TokenShards.open`` refuses.
    """

    def __init__(
        self, path: Path, *, vocab_size: int, end_of_text_id: int, shard_tokens: int = 2**26
    ) -> None:
        if shard_tokens < 1:
            raise ConfigError(f"data.shard_tokens={shard_tokens}; use a positive number of tokens")
        if not 0 <= end_of_text_id < vocab_size:
            raise ConfigError(
                f"end_of_text_id={end_of_text_id} lies outside the vocabulary of {vocab_size} tokens"
            )
        self.path = path
        self.vocab_size = vocab_size
        self.end_of_text_id = end_of_text_id
        self.shard_tokens = shard_tokens
        self.dtype = token_dtype(vocab_size)
        self._shards: list[ShardInfo] = []
        self._documents: list[tuple[int, int]] = []
        self._pending: list[TokenArray] = []
        self._pending_tokens = 0
        with explain_os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / INDEX).unlink(missing_ok=True)

    def add(self, ids_N: ArrayLike, num_bytes: int) -> None:
        """Append one document. ``ids_N`` ends with the end-of-text id; ``num_bytes`` is the size of its text
        in UTF-8.

        Raises: DataError if the ids do not end so, or do not fit the vocabulary.
        """
        ids = np.asarray(ids_N, dtype=np.int64)
        number = len(self._documents)
        if ids.size == 0 or ids[-1] != self.end_of_text_id:
            raise DataError(
                f"document {number} does not end with the end-of-text id {self.end_of_text_id}; append it"
            )
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            worst = int(ids.max() if ids.max() >= self.vocab_size else ids.min())
            raise DataError(
                f"document {number} holds token id {worst}, outside the vocabulary of {self.vocab_size}; "
                "write shards with the tokenizer that made the ids"
            )
        if self._pending and self._pending_tokens + ids.size > self.shard_tokens:
            self._flush()
        self._pending.append(ids.astype(self.dtype))
        self._pending_tokens += ids.size
        self._documents.append((ids.size, num_bytes))

    def close(self) -> None:
        """Write what is pending, the documents' table and, last, the index."""
        if self._pending:
            self._flush()
        documents_D2 = np.array(self._documents, dtype="<i8").reshape(-1, 2)
        with atomic_path(self.path / DOCUMENTS) as temporary, temporary.open("wb") as file:
            np.save(file, documents_D2)
        index = {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "vocab_size": self.vocab_size,
            "end_of_text_id": self.end_of_text_id,
            "num_documents": len(self._documents),
            "num_tokens": int(documents_D2[:, 0].sum()),
            "num_bytes": int(documents_D2[:, 1].sum()),
            "shards": [asdict(shard) for shard in self._shards],
        }
        write_json(self.path / INDEX, index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()

    def _flush(self) -> None:
        name = f"{len(self._shards):05d}.bin"
        with atomic_path(self.path / name) as temporary:
            np.concatenate(self._pending).tofile(temporary)
        self._shards.append(ShardInfo(name, len(self._pending), self._pending_tokens))
        self._pending, self._pending_tokens = [], 0


class TokenShards:
    """A shard folder, opened for reading. Nothing but the documents' table is held in memory."""

    def __init__(
        self, path: Path, index: dict[str, Any], documents_D2: IntArray
    ) -> None:  # Any: the JSON of index.json
        self.path = path
        self.vocab_size = int(index["vocab_size"])
        self.end_of_text_id = int(index["end_of_text_id"])
        self.num_documents = int(index["num_documents"])
        self.num_tokens = int(index["num_tokens"])
        self.num_bytes = int(index["num_bytes"])
        self.token_counts_D = np.ascontiguousarray(documents_D2[:, 0])
        self.byte_counts_D = np.ascontiguousarray(documents_D2[:, 1])
        dtype = np.dtype(index["dtype"])
        shards = [ShardInfo(**shard) for shard in index["shards"]]
        self._maps: list[TokenArray] = [np.memmap(path / shard.file, dtype, "r") for shard in shards]
        first_document = np.cumsum([0, *(shard.num_documents for shard in shards)])
        first_token = np.cumsum([0, *(shard.num_tokens for shard in shards)])
        self._shard_of_D = np.searchsorted(first_document, np.arange(self.num_documents), side="right") - 1
        ends_D = np.cumsum(self.token_counts_D)
        self._starts_D = ends_D - self.token_counts_D - first_token[self._shard_of_D]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder that ``ShardWriter`` finished, after comparing every file's size with the index.

        Raises: ArtefactError if it is unfinished, of another format, or damaged.
        """
        if not (path / INDEX).is_file():
            raise ArtefactError(
                f"{path} holds no finished token shards (no {INDEX}); run the data stage again"
            )
        index = read_json(path / INDEX)
        if index.get("format") != FORMAT:
            raise ArtefactError(
                f"{path} is of format {index.get('format')!r}, not '{FORMAT}'; run the data stage again"
            )
        with explain_os_errors(path, "read"):
            documents_D2 = _read_documents(path)
            _check_sizes(path, index, documents_D2)
        return cls(path, index, documents_D2)

    def document(self, number: int) -> TokenArray:
        """Return the ids of one document, its closing end-of-text id included, as a view of the file."""
        start = self._starts_D[number]
        return self._maps[self._shard_of_D[number]][start : start + self.token_counts_D[number]]

    def __len__(self) -> int:
        return self.num_documents


def _read_documents(path: Path) -> IntArray:
    file = path / DOCUMENTS
    if not file.is_file():
        raise _damaged(path, f"{DOCUMENTS} is missing")
    try:
        documents_D2 = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"{DOCUMENTS} cannot be read ({error})") from error
    if documents_D2.ndim != 2 or documents_D2.shape[1] != 2:
        raise _damaged(path, f"{DOCUMENTS} has the shape {documents_D2.shape}, not (D, 2)")
    return documents_D2.astype(np.int64)


def _check_sizes(
    path: Path, index: dict[str, Any], documents_D2: IntArray
) -> None:  # Any: the JSON of index.json
    itemsize = np.dtype(index["dtype"]).itemsize
    shards: Sequence[dict[str, Any]] = index["shards"]  # Any: JSON
    for shard in shards:
        file = path / shard["file"]
        size, wanted = file.stat().st_size if file.is_file() else -1, shard["num_tokens"] * itemsize
        if size != wanted:
            found = "is missing" if size < 0 else f"has {size} bytes instead of {wanted}"
            raise _damaged(path, f"{shard['file']} {found}")
    totals = (len(documents_D2), int(documents_D2[:, 0].sum()), int(documents_D2[:, 1].sum()))
    if totals != (index["num_documents"], index["num_tokens"], index["num_bytes"]):
        raise _damaged(
            path, f"{DOCUMENTS} and {INDEX} disagree about the number of documents, tokens or bytes"
        )
    if (
        sum(shard["num_documents"] for shard in shards),
        sum(shard["num_tokens"] for shard in shards),
    ) != totals[:2]:
        raise _damaged(path, f"the shards listed in {INDEX} do not add up to its totals")


def _damaged(path: Path, what: str) -> ArtefactError:
    return ArtefactError(
        f"token shards {path} are damaged: {what}; delete the folder and run the data stage again"
    )
