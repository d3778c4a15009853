"""Parameters and floating-point operations of a decoder, by formula."""

from portable.model.config import ModelConfig


def matmul_parameters(config: ModelConfig) -> int:
    """Return how many weights multiply every trained token: all matrices of the blocks and the head, not the
    embedding look-up; of the experts, those that a token meets. Each depth of multi-token prediction has its
    block, its projection, and the head once more.
    """
    head = config.vocab_size * config.hidden_size
    depth = 2 * config.hidden_size**2 + head
    blocks = sum(_block_matrices(config, layer, active=True) for layer in range(_num_blocks(config)))
    return blocks + head + _num_depths(config) * depth


def num_parameters(config: ModelConfig) -> int:
    """Return how many numbers the model learns."""
    return _count(config, active=False)


def num_active_parameters(config: ModelConfig) -> int:
    """Return how many of the parameters a token meets: all but the experts that it is not sent to."""
    return _count(config, active=True)


def train_flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Return the model's FLOPs per trained token, forward and backward: 6 N + 6 L N_heads (H_qk + H_v) T.

    N counts ``matmul_parameters``: 2 FLOPs a weight forward, 4 backward. The second term is attention over
    ``seq_len`` tokens, not halved for causality, as MFU is reported in the field. Recomputation does not
    count, nor does what latent attention's values are padded with.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
    """
    value_dim = config.head_dim if config.mla is None else config.mla.v_head_dim
    attention = 6 * _num_blocks(config) * config.num_heads * (config.head_dim + value_dim) * seq_len
    return 6.0 * matmul_parameters(config) + attention


def _count(config: ModelConfig, *, active: bool) -> int:
    size = config.hidden_size
    embeddings = (1 if config.tie_embeddings else 2) * config.vocab_size * size
    blocks = sum(
        _block_matrices(config, layer, active=active) + _block_vectors(config)
        for layer in range(_num_blocks(config))
    )
    depth = 2 * size**2 + 3 * size  # the projection, and three norms beside the block's
    return embeddings + blocks + size + _num_depths(config) * depth


def _num_depths(config: ModelConfig) -> int:
    return 0 if config.mtp is None else config.mtp.num_layers


def _num_blocks(config: ModelConfig) -> int:
    return config.num_layers + _num_depths(config)


def _block_matrices(config: ModelConfig, layer: int, *, active: bool) -> int:
    size, moe = config.hidden_size, config.moe
    if moe is None or not config.is_sparse(layer):
        return _attention_matrices(config) + 3 * size * config.intermediate_size
    routed = moe.top_k if active else moe.num_experts
    experts = 3 * size * moe.intermediate_size * (routed + moe.num_shared_experts)
    return _attention_matrices(config) + experts + size * moe.num_experts


def _attention_matrices(config: ModelConfig) -> int:
    size, mla, heads = config.hidden_size, config.mla, config.num_heads
    if mla is None:
        return size * config.head_dim * 2 * (heads + config.num_kv_heads)
    queries = heads * mla.qk_head_dim
    q = mla.q_lora_rank * (size + queries) if mla.q_lora_rank else size * queries
    kv_down = size * (mla.kv_lora_rank + mla.qk_rope_head_dim)
    kv_up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    return q + kv_down + kv_up + heads * mla.v_head_dim * size


def _block_vectors(config: ModelConfig) -> int:
    """Return the numbers in norms and biases."""
    norms = 2 * config.hidden_size + (2 * config.head_dim if config.qk_norm else 0)
    if config.mla is not None:
        norms += config.mla.q_lora_rank + config.mla.kv_lora_rank
    biases = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim if config.qkv_bias else 0
    return norms + biases
