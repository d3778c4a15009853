"""Rotary angles: frequencies by formula, and tables of cos and sin for given positions.

Shapes: B rows, T tokens, H head_dim.
"""

import math

import torch
from torch import Tensor

from portable.model.config import RopeConfig, RopeScaling


def inverse_frequencies(head_dim: int, config: RopeConfig) -> Tensor:
    """Return the H/2 angles by which one position turns each pair of dims, float32.

    none: theta^(-2i/H). linear: the same divided by ``factor`` (Chen et al. 2023, arXiv:2306.15595). llama3:
    long wavelengths divided by ``factor``, short ones kept, a linear blend between (Llama 3.1; Dubey et al.
    2024, arXiv:2407.21783, section 3.4.2 names the long-context stage, the rule is that of the released
    weights).
    """
    steps = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / config.theta**steps
    if config.scaling is RopeScaling.linear:
        return frequencies / config.factor
    if config.scaling is RopeScaling.llama3:
        return _stretch_long_wavelengths(frequencies, config)
    return frequencies


def _stretch_long_wavelengths(frequencies: Tensor, config: RopeConfig) -> Tensor:
    # Turns over the original context decide: few turns means a long wavelength.
    wavelengths = 2 * math.pi / frequencies
    turns = config.original_max_seq_len / wavelengths
    keep = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blended = (1 - keep) * frequencies / config.factor + keep * frequencies
    stretched = torch.where(turns < config.low_freq_factor, frequencies / config.factor, blended)
    return torch.where(turns > config.high_freq_factor, frequencies, stretched)


class RotaryTable:
    """Cos and sin for positions. Not a module and no buffer: a cast of the model must not round the
    angles."""

    def __init__(self, head_dim: int, config: RopeConfig) -> None:
        self._head_dim, self._config = head_dim, config
        self._by_device: dict[torch.device, Tensor] = {}

    def __call__(self, position_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos_BTH and sin_BTH in float32, the H/2 angles twice over."""
        device = position_ids_BT.device
        if device not in self._by_device:
            with torch.device("cpu"):  # computed on the host: the same bits on every device
                self._by_device[device] = inverse_frequencies(self._head_dim, self._config).to(device)
        angles = position_ids_BT.unsqueeze(-1).float() * self._by_device[device]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()
