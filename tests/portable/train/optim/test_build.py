import pytest

from portable.core.errors import ConfigError
from portable.train.config import AdamW8bitConfig, AdamWConfig, MuonConfig, OptimConfig
from tests.portable.train.optim.support import build
from tests.portable.train.support import TinyModel


@pytest.mark.parametrize(
    ("config", "num_parts"), [(AdamWConfig(), 1), (AdamW8bitConfig(), 1), (MuonConfig(), 2)]
)
def test_the_name_chooses(config: OptimConfig, num_parts: int):
    assert len(build(TinyModel(), config).parts) == num_parts


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"no optimiser is called 'adam'. Did you mean 'adamw'"):
        build(TinyModel(), OptimConfig(name="adam", lr=0.1))


def test_a_frozen_model_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build(TinyModel().requires_grad_(False), AdamWConfig())
