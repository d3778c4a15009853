from dataclasses import replace

import torch

from portable.collective.local import LocalGroup
from tests.portable.train.support import make_runtime


class SecondRank(LocalGroup):
    rank = 1


def draw(runtime) -> float:
    runtime.seed_everything(3)
    return float(torch.rand(()))


def test_seeding_repeats_itself_and_differs_between_ranks():
    runtime = make_runtime()
    first, again = draw(runtime), draw(runtime)
    other = draw(replace(runtime, group=SecondRank()))
    assert first == again
    assert first != other


def test_the_device_is_the_ranks_own():
    assert make_runtime().torch_device == torch.device("cpu")
