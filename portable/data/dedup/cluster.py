"""From pairs of alike documents to clusters, of which one document stays.

The rule is fixed: documents are compared in the order given, and the first of a cluster stays. With held-out
documents put first, a cluster that holds one keeps that one and loses everything else, so training never sees
its like.

Shapes: D documents, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def first_of_equal(keys_D: NDArray[np.uint64]) -> IntArray:
    """Return for each document the first document with the same key (itself, if none is earlier)."""
    _, first, inverse = np.unique(keys_D, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def candidate_pairs(bands_DK: NDArray[np.uint64]) -> IntArray:
    """Return (P, 2) pairs i < j, sorted and without repeats, of documents that share a band.

    In a bucket each document is paired with the first one and with its predecessor, not with all: a bucket of
    n alike documents costs 2 n comparisons instead of n squared, and the cluster still comes together.
    """
    pairs: list[IntArray] = [np.zeros((0, 2), dtype=np.int64)]
    for band in bands_DK.T:
        order = np.argsort(band, kind="stable")
        keys = band[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if keys.size else np.zeros(0, np.int64)
        first = np.repeat(order[starts], np.diff(np.r_[starts, keys.size]))
        same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        pairs.append(np.stack([order[same - 1], order[same]], axis=1))
        pairs.append(np.stack([first[same], order[same]], axis=1))
    found = np.concatenate(pairs)
    return np.unique(found[found[:, 0] < found[:, 1]], axis=0)


def cluster_roots(num_documents: int, pairs_P2: IntArray, alike: Callable[[int, int], bool]) -> IntArray:
    """Return for each document the first of its cluster, joining every pair that ``alike`` confirms.

    Pairs already in one cluster are not compared.
    """
    parent = list(range(num_documents))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for left, right in pairs_P2.tolist():
        first, second = sorted((root(left), root(right)))
        if first != second and alike(left, right):
            parent[second] = first
    return np.array([root(node) for node in range(num_documents)], dtype=np.int64)
