"""Fresh weights."""

import math

import torch
from torch import nn

from portable.core.random import derive_seed
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder

_RESIDUAL_OUTPUTS = ("attention.o.weight", "mlp.down.weight")


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
    """Return a decoder whose weights are allocated but not yet set."""
    with torch.device("meta"):
        model = Decoder(config, kernels)
    return model.to(dtype).to_empty(device=device)


def init_weights(model: Decoder, seed: int) -> None:
    """Draw all matrices from N(0, init_std^2) and set norms to one.

    The two matrices of a block that add to the residual stream get init_std / sqrt(2 num_layers), so that its
    variance does not grow with depth (Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners", section 2.3). Every parameter has its own random stream, named after it: adding one does not
    move the others.
    """
    std = model.config.init_std
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
            continue
        scale = 1 / math.sqrt(2 * model.config.num_layers) if name.endswith(_RESIDUAL_OUTPUTS) else 1.0
        stream = torch.Generator().manual_seed(derive_seed(seed, "init", name))
        values = torch.empty(parameter.shape).normal_(0.0, std * scale, generator=stream)
        with torch.no_grad():
            parameter.copy_(values)
