"""Parameters and floating-point operations of a decoder, by formula."""

from portable.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Return how many weights multiply every token: all matrices of the blocks and the head, not the
    embedding look-up."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads
    attention = config.hidden_size * config.head_dim * heads
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def num_parameters(config: ModelConfig) -> int:
    """Return how many numbers the model learns."""
    norms = config.num_layers * (2 * config.hidden_size + (2 * config.head_dim if config.qk_norm else 0))
    embedding = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    return matmul_parameters(config) + embedding + norms + config.hidden_size


def train_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Return the model's FLOPs per trained token, forward and backward: 6 N + 12 L N_heads H T.

    N counts ``matmul_parameters``: 2 FLOPs a weight forward, 4 backward. The second term is attention over
    ``seq_len`` tokens, not halved for causality, as MFU is reported in the field. Recomputation does not
    count.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * seq_len
    return 6.0 * matmul_parameters(config) + attention
