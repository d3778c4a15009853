"""What a model must beat to have learnt anything: the order-free statistics of bytes, and a general
compressor.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from portable.core.errors import DataError

_MAX_TRAIN_BYTES = 32 * 2**20  # half a minute of one core
_NO_TEXT = "the held-out split holds no text; give the data stage more documents or a larger held-out share"


def unigram_bits_per_byte(train: Iterable[bytes], heldout: Iterable[bytes]) -> float:
    """Return the cross-entropy of held-out bytes under the byte frequencies of the training text, add-one
    smoothed.

    Raises: DataError if there is no held-out byte.
    """
    counts = _byte_counts(train) + 1.0
    wanted = _byte_counts(heldout)
    total = wanted.sum()
    if total == 0:
        raise DataError(_NO_TEXT)
    return float(-(wanted * np.log2(counts / counts.sum())).sum() / total)


def xz_bits_per_byte(heldout: bytes, train: bytes = b"") -> float:
    """Return how many bits ``xz -9e`` adds per held-out byte, to a stream that already holds ``train``.

    With the training text in front, the compressor has seen what the model has seen: the fair comparison. (Of
    a long text only the last 32 MiB stand in front; xz looks back 64 MiB at most.) Without it, the compressor
    starts from nothing, as on a file of its own.

    Raises: DataError if there is no held-out text.
    """
    if not heldout:
        raise DataError(_NO_TEXT)
    train = train[-_MAX_TRAIN_BYTES:]
    with ThreadPoolExecutor(max_workers=2) as pool:  # the compressor lets go of Python's lock
        before, after = pool.map(_xz_bytes, (train, train + heldout))
    return (after - before) * 8 / len(heldout)


def _byte_counts(texts: Iterable[bytes]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    counts = np.zeros(256)
    for text in texts:
        counts += np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=256)
    return counts


def _xz_bytes(text: bytes) -> int:
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) if text else 0
