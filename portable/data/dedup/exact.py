"""Equal text, up to case and white space."""

from __future__ import annotations

import xxhash


def content_hash(text: str) -> int:
    """Return a 64-bit hash of ``text`` that ignores case and the amount of white space.

    Among a million documents two different ones share a hash with a probability of 3e-8.
    """
    return xxhash.xxh3_64_intdigest(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"))
