"""A group seen as nodes, whose inner links are faster than those between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portable.collective.protocol import Group, ReduceOp
from portable.core.errors import CapabilityError

if TYPE_CHECKING:
    from torch import Tensor

# What nodes do with each other's results, where it is not the same again. The mean of the nodes' means is
# the mean of all, since nodes are of one size.
_BETWEEN = {ReduceOp.premul_sum: ReduceOp.sum}


@dataclass(frozen=True, slots=True)
class NodeGroups:
    """``inside`` one node, and ``between`` the ranks of equal place in each.

    The ``between`` of the ranks that are 0 inside is the group of the nodes' leaders.
    """

    inside: Group
    between: Group

    def hierarchical_all_reduce(
        self, tensor: Tensor, op: ReduceOp = ReduceOp.sum, *, factor: float = 1.0
    ) -> Tensor:
        """Return what ``all_reduce`` over all ranks does, but for the order of the additions.

        Each rank reduces 1/size of the tensor inside its node, then with the other nodes, so the slow links
        carry 1/size of the tensor from each rank. Float sums differ from the flat ones in rounding: at most
        by (number of ranks - 1) half units in the last place of the sum of magnitudes.
        """
        size = self.inside.size
        filled = tensor.new_zeros(-(-tensor.numel() // size) * size)
        filled[: tensor.numel()] = tensor.flatten()
        block = self.inside.reduce_scatter(filled, op, factor=factor)
        block = self.between.all_reduce(block, _BETWEEN.get(op, op))
        return self.inside.all_gather(block).flatten()[: tensor.numel()].view(tensor.shape)


def node_parts(nodes: Sequence[str]) -> list[list[int]]:
    """Return the ranks of each node, given the node of each rank.

    Raises: CapabilityError if nodes hold different numbers of ranks.
    """
    ranks_of: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        ranks_of.setdefault(node, []).append(rank)
    if len({len(ranks) for ranks in ranks_of.values()}) > 1:
        counts = ", ".join(f"{node}: {len(ranks)}" for node, ranks in ranks_of.items())
        raise CapabilityError(
            f"by_node pairs the ranks of equal place in each node, but the nodes hold different numbers of "
            f"ranks ({counts}); start equally many on each, or use the flat group"
        )
    return list(ranks_of.values())
