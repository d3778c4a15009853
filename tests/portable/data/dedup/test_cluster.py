"""Clusters: the first stays, whatever the order of discovery."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable.data.dedup.cluster import candidate_pairs, cluster_roots, first_of_equal


def _always(left, right):
    return True


def test_first_of_equal_keys():
    assert first_of_equal(np.array([5, 7, 5, 5, 9, 7], dtype=np.uint64)).tolist() == [0, 1, 0, 0, 4, 1]
    assert first_of_equal(np.zeros(0, dtype=np.uint64)).tolist() == []


def test_pairs_share_a_band_and_come_once():
    bands = np.array([[1, 9], [2, 9], [1, 8], [1, 9], [4, 4]], dtype=np.uint64)
    # Band 0 joins 0, 2, 3; band 1 joins 0, 1, 3. Each is paired with the first and with its predecessor.
    assert candidate_pairs(bands).tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]]


def test_no_document_has_no_pairs():
    assert candidate_pairs(np.zeros((0, 3), dtype=np.uint64)).shape == (0, 2)
    assert cluster_roots(0, np.zeros((0, 2), dtype=np.int64), _always).tolist() == []


def test_chains_become_one_cluster_with_the_first_as_root():
    pairs = np.array([[3, 4], [1, 2], [2, 3]])
    assert cluster_roots(6, pairs, _always).tolist() == [0, 1, 1, 1, 1, 5]


def test_only_confirmed_pairs_join():
    pairs = np.array([[0, 1], [1, 2]])
    assert cluster_roots(3, pairs, lambda left, right: (left, right) == (1, 2)).tolist() == [0, 1, 1]


def test_pairs_already_together_are_not_compared_again():
    asked = []

    def alike(left, right):
        asked.append((left, right))
        return True

    cluster_roots(3, np.array([[0, 1], [0, 2], [1, 2]]), alike)
    assert asked == [(0, 1), (0, 2)]


@given(keys=st.lists(st.integers(0, 4), max_size=30))
def test_one_band_gives_the_clusters_of_equal_keys(keys):
    array = np.array(keys, dtype=np.uint64)
    roots = cluster_roots(len(keys), candidate_pairs(array[:, None].reshape(-1, 1)), _always)
    assert roots.tolist() == first_of_equal(array).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_roots_do_not_depend_on_the_order_of_pairs(seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    pairs = rng.integers(0, 20, (15, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    expected = cluster_roots(20, pairs, _always)
    for _ in range(3):
        rng.shuffle(pairs)
        assert np.array_equal(cluster_roots(20, pairs, _always), expected)
    assert (expected <= np.arange(20)).all()
