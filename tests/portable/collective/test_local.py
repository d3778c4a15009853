import pytest
import torch

from portable.collective.local import LocalGroup
from portable.collective.protocol import ReduceOp
from portable.core.errors import ShapeError


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
    assert group.sum_scalar(3) == 3.0
    assert isinstance(group.sum_scalar(3), float)
    assert group.barrier() is None
    assert group.close() is None


@pytest.mark.parametrize("name", ["broadcast", "broadcast_object"])
def test_other_sources_do_not_exist(group, name):
    with pytest.raises(ShapeError, match=r"source=1.*use source=0"):
        getattr(group, name)(torch.zeros(1), 1)
