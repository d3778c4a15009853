import pytest
import torch

from portable.collective.local import LocalGroup
from portable.collective.protocol import ReduceOp
from portable.core.errors import CapabilityError, ShapeError


@pytest.fixture
def group():
    return LocalGroup()


def test_identity(group):
    assert (group.rank, group.size, group.local_rank) == (0, 1, 0)
    assert group.communicator == "local"
    assert group.process_group is None


@pytest.mark.parametrize("op", list(ReduceOp))
@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter"])
def test_reductions_over_one_rank_return_the_values(group, name, op):
    values = torch.tensor([1.0, -2.0])
    assert torch.equal(getattr(group, name)(values, op), values)


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter", "all_to_all", "broadcast", "all_gather"])
def test_results_are_copies(group, name):
    values = torch.zeros(2)
    getattr(group, name)(values).add_(1)
    assert torch.equal(values, torch.zeros(2))


def test_gathering_adds_a_dim_of_one_rank(group):
    assert group.all_gather(torch.zeros(3, 2)).shape == (1, 3, 2)


def test_host_values(group):
    item = {"a": 1}
    assert group.broadcast_object(item) is item
    assert group.all_gather_object(item) == [item]
    assert group.sum_scalar(3) == 3.0
    assert isinstance(group.sum_scalar(3), float)
    assert group.barrier() is None
    assert group.close() is None
    with group.naming_ranks("backward"):
        pass


def test_a_premultiplied_sum_is_scaled(group):
    assert group.all_reduce(torch.ones(2), ReduceOp.premul_sum, factor=0.5).tolist() == [0.5, 0.5]


def test_groups_of_a_group_of_one_are_of_one(group):
    pair = group.split("tp", [[0]])
    assert (pair.axis, pair.size) == ("tp", 1)
    assert group.subgroup("tp", []) is None
    nodes = group.by_node()
    values = torch.tensor([1.0, -2.0])
    assert torch.equal(nodes.hierarchical_all_reduce(values), values)
    assert (nodes.inside.axis, nodes.between.axis) == ("node", "between_nodes")


def test_nobody_else_is_there(group):
    assert group.exchange([], []) == []
    for call in (
        lambda: group.send(torch.zeros(1), 0),
        lambda: group.recv(torch.zeros(1), 0),
        lambda: group.exchange([(torch.zeros(1), 1)], []),
    ):
        with pytest.raises(ShapeError):
            call()


@pytest.mark.parametrize("op", [ReduceOp.mean, ReduceOp.premul_sum])
def test_what_real_groups_refuse_is_refused_here_too(group, op):
    with pytest.raises(CapabilityError, match=f"the {op.name} of torch.int64 is not of that dtype"):
        group.all_reduce(torch.ones(2, dtype=torch.int64), op)
    with pytest.raises(CapabilityError, match=r"factor=2 goes with premul_sum"):
        group.all_reduce(torch.ones(2), factor=2.0)
    with pytest.raises(ShapeError, match=r"got the counts \[1\]"):
        group.all_to_all_uneven(torch.ones(2), [1])


@pytest.mark.parametrize("name", ["broadcast", "broadcast_object"])
def test_other_sources_do_not_exist(group, name):
    with pytest.raises(ShapeError, match=r"rank 1 was named, but the axis 'world' has one rank; use 0"):
        getattr(group, name)(torch.zeros(1), 1)
