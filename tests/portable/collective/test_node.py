"""How ranks are told to nodes. The all-reduce over nodes is in tests/contract."""

import pytest

from portable.collective.node import node_parts
from portable.core.errors import CapabilityError


def test_ranks_of_a_node_keep_their_order():
    assert node_parts(["a", "b", "a", "b"]) == [[0, 2], [1, 3]]
    assert node_parts(["0", "0", "0"]) == [[0, 1, 2]]


def test_nodes_of_different_size_are_refused_with_the_counts():
    with pytest.raises(CapabilityError, match=r"\(a: 2, b: 1\); start equally many"):
        node_parts(["a", "a", "b"])
