import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import CapabilityError
from portable.parallel.placement import chunk
from portable.parallel.strategies.bucket import Bucket, Member, Place, Route, dim_to_divide

ALONE = Route(LocalGroup("shard"), LocalGroup("dp"))


@pytest.mark.parametrize(
    ("shape", "size", "dim"),
    [
        ((8, 3), 4, 0),
        ((7, 4), 4, 0),
        ((2, 8, 3), 4, 1),
        ((2, 3, 8), 4, 2),
        ((2, 3), 4, 0),
        ((0, 4), 4, 0),
        ((), 4, 0),
    ],
)
def test_a_dim_with_too_few_rows_is_left_for_one_that_divides(shape: tuple[int, ...], size: int, dim: int):
    assert dim_to_divide(shape, size) == dim


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("shape", "dim"), [((5, 2), 0), ((4,), 0), ((1, 3), 0), ((0, 3), 0), ((2, 6, 2), 1), ((2, 12), 1)]
)
def test_a_parameter_lies_in_sections_as_torch_chunks_it(shape: tuple[int, ...], dim: int, size: int):
    tensor = torch.arange(float(torch.Size(shape).numel())).view(shape)
    place = Place(shape, dim, size, offset=3)
    buffer = torch.full((size, 3 + place.length + 2), -1.0)
    for into, part in place.pairs(buffer, tensor):
        into.copy_(part)
    for rank in range(size):
        expected = tensor.narrow(dim, *chunk(shape[dim], size, rank))
        assert torch.equal(place.part(buffer[rank], rank), expected)
    back = torch.empty_like(tensor)
    for held, into in place.pairs(buffer, back):
        into.copy_(held)
    assert torch.equal(back, tensor)
    assert int((buffer != -1).sum()) == tensor.numel()  # nothing beside its place is touched


def bucket_of_two(*, keeps_whole: bool) -> tuple[Bucket, list[nn.Parameter]]:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(()))]
    places = [Place((2,), 0, 1, 0), Place((), 0, 1, 2)]
    members = [
        Member(str(index), parameter, nn.Parameter(torch.zeros_like(parameter)), place)
        for index, (parameter, place) in enumerate(zip(parameters, places, strict=True))
    ]
    return Bucket(members, ALONE, torch.float32, keeps_whole=keeps_whole), parameters


@pytest.mark.parametrize("keeps_whole", [True, False])
def test_micro_batches_add_up_and_a_step_begins_anew(keeps_whole: bool):
    bucket, parameters = bucket_of_two(keeps_whole=keeps_whole)
    for _ in range(2):
        for micro_batch in range(2):
            bucket.begin_pass()
            parameters[0].grad = torch.tensor([1.0, 2.0])
            bucket.take(0)
            assert not bucket.is_full
            parameters[1].grad = torch.tensor(3.0) if micro_batch else None
            bucket.take(1)
            assert bucket.is_full == bool(micro_batch)
            assert parameters[0].grad is None
            if not keeps_whole:
                bucket.send()
        if keeps_whole:
            bucket.send()
        bucket.hand_over()
        assert [member.part.grad.tolist() for member in bucket.members] == [[2.0, 4.0], 3.0]
        bucket.reset()


def test_a_gradient_that_never_came_is_zero():
    bucket, parameters = bucket_of_two(keeps_whole=True)
    parameters[0].grad = torch.ones(2)
    bucket.take(0)
    bucket.send()
    bucket.reset()
    bucket.send()
    bucket.hand_over()
    assert [member.part.grad.tolist() for member in bucket.members] == [[0.0, 0.0], 0.0]


def test_nothing_is_handed_over_before_anything_travelled():
    with pytest.raises(CapabilityError, match="before any had travelled"):
        bucket_of_two(keeps_whole=False)[0].hand_over()
