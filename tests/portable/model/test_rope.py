import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from portable.model.config import RopeConfig, RopeScaling
from portable.model.rope import RotaryTable, inverse_frequencies

CASES = {
    "none": (RopeConfig(theta=5e5), {"rope_type": "default", "rope_theta": 5e5}),
    "linear": (
        RopeConfig(scaling=RopeScaling.linear, factor=4.0),
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    ),
    "llama3": (
        RopeConfig(theta=5e5, scaling=RopeScaling.llama3, factor=8.0, original_max_seq_len=256),
        {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    ),
    "yarn": (
        RopeConfig(scaling=RopeScaling.yarn, factor=8.0, original_max_seq_len=256, beta_fast=16.0),
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "beta_fast": 16.0,
            "original_max_position_embeddings": 256,
        },
    ),
    "yarn with mscales": (
        RopeConfig(
            scaling=RopeScaling.yarn, factor=8.0, original_max_seq_len=256, mscale=0.7, mscale_all_dim=1.2
        ),
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "mscale": 0.7,
            "mscale_all_dim": 1.2,
            "original_max_position_embeddings": 256,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_equal_those_of_transformers(name):
    ours, theirs = CASES[name]
    hf = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=2048, rope_parameters=theirs
    )
    positions_BT = torch.tensor([[0, 1, 2, 300, 1999], [5, 0, 1, 2, 3]])
    cos, sin = LlamaRotaryEmbedding(hf)(torch.zeros(1), positions_BT)
    our_cos, our_sin = RotaryTable(64, ours)(positions_BT)
    torch.testing.assert_close(our_cos, cos, rtol=0, atol=1e-6)
    torch.testing.assert_close(our_sin, sin, rtol=0, atol=1e-6)


def test_llama3_keeps_short_waves_divides_long_ones_and_blends_between():
    plain = inverse_frequencies(64, RopeConfig(theta=5e5))
    config = CASES["llama3"][0]
    scaled = inverse_frequencies(64, config)
    turns = config.original_max_seq_len * plain / (2 * math.pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_angles_by_hand():
    cos, sin = RotaryTable(4, RopeConfig(theta=100.0))(torch.tensor([[3]]))
    expected = [3 * 1.0, 3 * 0.1, 3 * 1.0, 3 * 0.1]
    torch.testing.assert_close(cos[0, 0], torch.tensor([math.cos(angle) for angle in expected]))
    torch.testing.assert_close(sin[0, 0], torch.tensor([math.sin(angle) for angle in expected]))


def test_interleaved_tables_hold_each_angle_twice_in_a_row():
    config, positions = RopeConfig(theta=100.0), torch.tensor([[3]])
    pairs = RotaryTable(4, config, interleave=True)(positions)
    for ours, halves in zip(pairs, RotaryTable(4, config)(positions), strict=True):
        assert torch.equal(ours[0, 0], halves[0, 0, [0, 0, 1, 1]])
