import torch

from portable.parallel.objective import LossSum


def test_metrics_are_optional():
    assert LossSum(torch.tensor(2.0)).metrics == {}
