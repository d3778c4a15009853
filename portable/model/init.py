"""Fresh weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from portable.core.random import derive_seed
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder

_RESIDUAL_OUTPUTS = ("attention.o.weight", "mlp.down.weight", "mlp.experts.down", "mlp.shared.down.weight")


def new_model(
    config: ModelConfig,
    kernels: KernelSet,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Decoder:
    """Return a decoder with fresh weights: the same for the same seed on every device and in every
    process."""
    model = empty_model(config, kernels, dtype=dtype, device=device)
    init_weights(model, seed)
    return model


def empty_model(
    config: ModelConfig, kernels: KernelSet, *, dtype: torch.dtype, device: torch.device | str
) -> Decoder:
    """Return a decoder whose weights are allocated but not yet set; buffers are, in float32 whatever
    ``dtype``."""
    with torch.device("meta"):
        model = Decoder(config, kernels)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.to_empty(device=device)
    for buffer in model.buffers():
        buffer.zero_()
    return model


def init_weights(model: Decoder, seed: int) -> None:
    """Give every parameter its ``initial_value``, and buffers zeros."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(model.config, name, parameter.shape, seed))
        for buffer in model.buffers():
            buffer.zero_()


def initial_value(config: ModelConfig, name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return the fresh value of one parameter or buffer, whole, float32, on the host.

    Matrices come from N(0, init_std^2), norms are one, biases zero. The matrices of a block that add to the
    residual stream get init_std / sqrt(2 num_layers), so that its variance does not grow with depth (Radford
    et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3). Every parameter has its
    own random stream, named after it: adding one does not move the others, and a rank may draw some alone.
    """
    if name.endswith(".bias"):
        return torch.zeros(*shape)
    if len(shape) == 1:
        return torch.ones(*shape)
    scale = 1 / math.sqrt(2 * config.num_layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
    stream = torch.Generator().manual_seed(derive_seed(seed, "init", name))
    return torch.empty(*shape).normal_(0.0, config.init_std * scale, generator=stream)
