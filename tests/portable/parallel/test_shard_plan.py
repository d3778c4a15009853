import pytest

from portable.core.errors import ConfigError
from portable.parallel.shard_plan import DECODER, Role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("embed.weight", Role.embedding),
        ("blocks.3.attention.k.bias", Role.kv_column),
        ("blocks.3.attention.k_norm.weight", Role.head_norm),
        ("blocks.3.attention.kv_up.weight", Role.column),
        ("blocks.3.attention.kv_down_norm.weight", Role.replicated),
        ("blocks.3.post_norm.weight", Role.norm),
        ("blocks.3.mlp.experts.down", Role.expert_row),
        ("blocks.3.mlp.shared.down.weight", Role.row),
        ("mtp.0.block.mlp.up.weight", Role.column),
        ("mtp.0.projection.weight", Role.replicated),
    ],
)
def test_a_parameter_has_its_own_role_or_its_modules(name: str, role: Role) -> None:
    assert DECODER.role_of_parameter(name) is role


@pytest.mark.parametrize("name", ["blocks.attention", "blocks.3.inner.attention", "attention"])
def test_a_pattern_has_as_many_words_as_the_name(name: str) -> None:
    assert DECODER.role(name) is None


def test_a_parameter_without_a_rule_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no rule for the parameter 'blocks\.0\.lora\.a'"):
        DECODER.role_of_parameter("blocks.0.lora.a")
