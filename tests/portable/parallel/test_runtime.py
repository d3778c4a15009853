from dataclasses import replace

import torch

from portable.collective.local import LocalGroup
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from tests.portable.train.support import make_runtime


class SecondReader(Mesh):
    def group(self, axis: str) -> LocalGroup:
        group = LocalGroup(axis)
        group.rank = 1 if axis == "batch" else 0
        return group


def draw(runtime) -> float:
    runtime.seed_everything(3)
    return float(torch.rand(()))


def test_seeding_repeats_itself_and_differs_between_readers():
    runtime = make_runtime()
    first, again = draw(runtime), draw(runtime)
    other = draw(replace(runtime, mesh=SecondReader(Layout(), runtime.group, "cpu")))
    assert first == again
    assert first != other


def test_the_device_is_the_ranks_own():
    assert make_runtime().torch_device == torch.device("cpu")
