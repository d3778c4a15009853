import pytest

from portable.core.errors import ConfigError
from portable.kernel.registry import KernelSet
from portable.train.config import AdamWConfig, MuonConfig, OptimConfig
from portable.train.optim.build import build_optimizer
from tests.portable.train.support import TinyModel

KERNELS = KernelSet("cpu", "fp32")


@pytest.mark.parametrize(("config", "num_parts"), [(AdamWConfig(), 1), (MuonConfig(), 2)])
def test_the_name_chooses(config: OptimConfig, num_parts: int):
    assert len(build_optimizer(TinyModel(), config, KERNELS).parts) == num_parts


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"no optimiser is called 'adam'. Did you mean 'adamw'"):
        build_optimizer(TinyModel(), OptimConfig(name="adam", lr=0.1), KERNELS)


def test_a_frozen_model_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(TinyModel().requires_grad_(False), AdamWConfig(), KERNELS)
