"""Rotary angles: frequencies by formula, and tables of cos and sin for given positions.

Shapes: B rows, T tokens, R dims that turn.
"""

import math

import torch
from torch import Tensor

from portable.model.config import RopeConfig, RopeScaling


def inverse_frequencies(rotary_dim: int, config: RopeConfig) -> Tensor:
    """Return the R/2 angles by which one position turns each pair of dims, float32.

    none: theta^(-2i/R). linear: the same divided by ``factor`` (Chen et al. 2023, arXiv:2306.15595). llama3:
    long wavelengths divided by ``factor``, short ones kept, a linear blend between (Llama 3.1; Dubey et al.
    2024, arXiv:2407.21783, section 3.4.2 names the long-context stage, the rule is that of the released
    weights). yarn: the same idea, the blend being linear in i (Peng et al. 2023, arXiv:2309.00071, section
    3.2).
    """
    steps = torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim
    frequencies = 1.0 / config.theta**steps
    if config.scaling is RopeScaling.linear:
        return frequencies / config.factor
    if config.scaling is RopeScaling.llama3:
        return _stretch_long_wavelengths(frequencies, config)
    if config.scaling is RopeScaling.yarn:
        return _stretch_by_parts(frequencies, rotary_dim, config)
    return frequencies


def table_stretch(config: RopeConfig) -> float:
    """Return what cos and sin are multiplied by: YaRN's attention factor, 1 elsewhere.

    With both mscales, their quotient, as DeepSeek's and transformers' code have it.
    """
    if config.scaling is not RopeScaling.yarn:
        return 1.0
    if config.attention_factor:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return _mscale(config.factor, config.mscale) / _mscale(config.factor, config.mscale_all_dim)
    return _mscale(config.factor, 1.0)


def softmax_stretch(config: RopeConfig) -> float:
    """Return what latent attention multiplies its logits by under YaRN, beside 1 / sqrt(H)."""
    if config.scaling is RopeScaling.none:
        return 1.0
    return _mscale(config.factor, config.mscale_all_dim) ** 2


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _stretch_by_parts(frequencies: Tensor, rotary_dim: int, config: RopeConfig) -> Tensor:
    # The pair, not a whole number, that makes so many turns over the original context.
    def pair(turns: float) -> float:
        wavelength = config.original_max_seq_len / (turns * 2 * math.pi)
        return rotary_dim * math.log(wavelength) / (2 * math.log(config.theta))

    low = max(math.floor(pair(config.beta_fast)), 0)
    high = min(math.ceil(pair(config.beta_slow)), rotary_dim - 1)
    places = torch.arange(rotary_dim // 2, dtype=torch.float32)
    kept = 1 - ((places - low) / max(high - low, 0.001)).clamp(0, 1)
    # In the order of transformers' code: late positions multiply a difference of the last bit.
    return 1 / (config.factor / frequencies) * (1 - kept) + frequencies * kept


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

    def __init__(self, rotary_dim: int, config: RopeConfig, *, interleave: bool = False) -> None:
        self._rotary_dim, self._config = rotary_dim, config
        self._stretch = table_stretch(config)
        self._interleave = interleave
        self._by_device: dict[torch.device, Tensor] = {}

    def __call__(self, position_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos_BTR and sin_BTR in float32: the R/2 angles twice over, or each twice in a row where
        neighbours turn as pairs."""
        device = position_ids_BT.device
        if device not in self._by_device:
            with torch.device("cpu"):  # computed on the host: the same bits on every device
                self._by_device[device] = inverse_frequencies(self._rotary_dim, self._config).to(device)
        angles = position_ids_BT.unsqueeze(-1).float() * self._by_device[device]
        angles = angles.repeat_interleave(2, -1) if self._interleave else torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self._stretch == 1.0 else (cos * self._stretch, sin * self._stretch)
