import subprocess
import sys

import pytest

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, ["num_kv_heads=4", "num_heads=6", "[1, 2, 3, 6]"]),
        ({"head_dim": 31}, ["head_dim=31", "even"]),
        ({"vocab_size": 0}, ["vocab_size=0", "positive"]),
        ({"num_kv_heads": 0}, ["num_kv_heads=0", "positive"]),
        ({"num_heads": -4}, ["num_heads=-4", "positive"]),
        ({"max_seq_len": -1}, ["max_seq_len=-1", "positive"]),
    ],
)
def test_impossible_shapes_name_field_value_and_remedy(changes, words):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**changes)
    for word in words:
        assert word in str(caught.value)


def test_default_shape_is_legal_and_each_owns_its_rope():
    first, second = ModelConfig(), ModelConfig()
    first.rope.theta = 1.0
    assert second.rope.theta == 10_000.0


def test_configs_import_without_torch():
    code = (
        "import sys, portable.model.config, portable.model.export_config, portable.kernel.config, "
        "portable.hardware.spec; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
