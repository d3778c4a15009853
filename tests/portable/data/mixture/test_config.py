import pytest

from portable.core.errors import ConfigError
from portable.data.mixture.config import CorpusConfig, check_mixture


@pytest.mark.parametrize("weight", [0.0, -0.2, float("nan"), float("inf")])
def test_a_weight_is_a_positive_number(weight: float):
    with pytest.raises(ConfigError, match=r"the weight of a is .*; use a share of the samples above 0"):
        CorpusConfig(data="a", weight=weight)


@pytest.mark.parametrize("epochs", [0.0, -1.0])
def test_epochs_are_positive_or_without_limit(epochs: float):
    with pytest.raises(ConfigError, match=r"a is to be read for .* epochs; use a positive number, or null"):
        CorpusConfig(data="a", weight=1.0, epochs=epochs)


def corpora(*weights: float) -> list[CorpusConfig]:
    return [CorpusConfig(data=f"in/c{place}", weight=weight) for place, weight in enumerate(weights)]


def test_weights_are_shares_of_one():
    with pytest.raises(
        ConfigError, match=r"sum to 3, not to 1; in the same proportions they are 0.6667, 0.33"
    ):
        check_mixture(corpora(2.0, 1.0))
    check_mixture(corpora(0.333, 0.333, 0.333))
    check_mixture([])


def test_names_are_told_apart():
    assert CorpusConfig(data="runs/web/", weight=1.0).label == "web"
    twins = [CorpusConfig(data=f"{side}/web", weight=0.5) for side in "ab"]
    with pytest.raises(ConfigError, match=r"two corpora of the mixture are called web; give each a name="):
        check_mixture(twins)
    twins[1].name = "other"
    check_mixture(twins)
