"""From logits to tokens, for many requests at once.

Shapes: N requests, V vocabulary, K alternatives.

A draw is one uniform number a row, put through the inverse of the row's cumulative distribution. The number
of a seeded request depends on its seed and on how many tokens it has, on nothing else, so such a request
gives the same tokens alone and in any company. Requests without a seed share the host's default stream,
which a training run saves and restores with its checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from portable.core.errors import PortableError
from portable.engine.request import Request, TokenStep
from portable.kernel.entry import Kernel
from portable.kernel.reference.sampling import top_k_top_p

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd: visits every 64-bit state
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """How each row is drawn. ``uniform_N`` lies in [0, 1)."""

    temperature_N: Tensor
    top_k_N: Tensor
    top_p_N: Tensor
    uniform_N: Tensor
    num_top: int
    any_greedy: bool
    all_greedy: bool
    any_cut: bool

    @classmethod
    def of(cls, requests: Sequence[Request], num_drawn: Sequence[int], device: torch.device) -> Self:
        """Collect the settings of ``requests``, of which ``num_drawn`` tokens were drawn before this one."""
        settings = [request.sampling for request in requests]
        temperature = [item.temperature for item in settings]
        return cls(
            temperature_N=torch.tensor(temperature, dtype=torch.float32).to(device),
            top_k_N=torch.tensor([item.top_k for item in settings], dtype=torch.int64).to(device),
            top_p_N=torch.tensor([item.top_p for item in settings], dtype=torch.float32).to(device),
            uniform_N=draw_uniforms([item.seed for item in settings], num_drawn).to(device),
            num_top=max((request.num_top_log_probs for request in requests), default=0),
            any_greedy=not all(temperature),
            all_greedy=not any(temperature),
            any_cut=any(item.temperature > 0 and (item.top_k > 0 or item.top_p < 1) for item in settings),
        )


def draw_uniforms(seeds: Sequence[int | None], num_drawn: Sequence[int]) -> Tensor:
    """Return one number of [0, 1) a row, as float32 on the host."""
    seeded = np.array([seed is not None for seed in seeds], dtype=bool)
    uniform = np.empty(len(seeds), dtype=np.float64)
    if not seeded.all():
        uniform[~seeded] = torch.rand(int((~seeded).sum()), dtype=torch.float64).numpy()
    if seeded.any():
        words = np.array([(seed or 0) & _MASK for seed in seeds], dtype=np.uint64)
        uniform[seeded] = counter_uniforms(words, np.array(num_drawn, dtype=np.uint64))[seeded]
    return torch.from_numpy(uniform.astype(np.float32))


# Any: numpy's array type is generic over shape and dtype in ways that say nothing here.
def counter_uniforms(seeds: np.ndarray[Any, Any], counters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return number ``counters`` of the streams ``seeds`` (both uint64), in [0, 1) with 53 random bits.

    Source: SplitMix64; Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195. The seed is mixed once by
    itself, so that neighbouring seeds do not walk the same path.
    """
    with np.errstate(over="ignore"):
        words = _mix(_mix(seeds + _GOLDEN) + (counters + np.uint64(1)) * _GOLDEN)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def draw(logits_NV: Tensor, rows: SamplingRows, cut: Kernel = top_k_top_p) -> list[TokenStep]:
    """Draw one token a row, with its log-probability under the distribution before top-k and top-p.

    ``cut`` is the kernel of top-k and top-p. A greedy row (temperature 0) reports the log-probability at
    temperature 1.
    Raises: PortableError if the logits are not finite, as after a diverged training.
    """
    scaled_NV = logits_NV.float() / torch.where(rows.temperature_N > 0, rows.temperature_N, 1.0)[:, None]
    log_probs_NV = torch.log_softmax(scaled_NV, dim=-1)
    if rows.any_greedy:
        tokens_N = log_probs_NV.argmax(dim=-1)
        if not rows.all_greedy:
            tokens_N = torch.where(rows.temperature_N > 0, _sample(scaled_NV, rows, cut), tokens_N)
    else:
        tokens_N = _sample(scaled_NV, rows, cut)
    log_probs_N = log_probs_NV.gather(1, tokens_N[:, None])[:, 0]
    if not bool(torch.isfinite(log_probs_N).all()):
        raise PortableError(
            "the model's logits are not finite, so no token can be drawn: its weights are damaged or its "
            "training diverged; take an earlier checkpoint"
        )
    tokens, log_probs = tokens_N.tolist(), log_probs_N.tolist()
    if rows.num_top == 0:
        return [TokenStep(token, log_prob) for token, log_prob in zip(tokens, log_probs, strict=True)]
    best = log_probs_NV.topk(min(rows.num_top, log_probs_NV.shape[1]), dim=-1)
    tops = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenStep(token, log_prob, tuple(zip(ids, values, strict=True)))
        for token, log_prob, (ids, values) in zip(tokens, log_probs, tops, strict=True)
    ]


def _sample(scaled_NV: Tensor, rows: SamplingRows, cut: Kernel) -> Tensor:
    if rows.any_cut:
        index = ((rows.top_k_N > 0) | (rows.top_p_N < 1)).nonzero()[:, 0]
        kept = cut(scaled_NV[index], rows.top_k_N[index], rows.top_p_N[index])
        scaled_NV = scaled_NV.index_copy(0, index, kept)
    # Faster than exp of the log-probs.
    return _inverse_cdf(torch.softmax(scaled_NV, dim=-1), rows.uniform_N)


def _inverse_cdf(probs_NV: Tensor, uniform_N: Tensor) -> Tensor:
    cumulative_NV = probs_NV.cumsum(dim=-1)
    # Staying under the total keeps rounding from choosing a token past the last one that has any probability.
    total_N1 = cumulative_NV[:, -1:]
    point_N1 = torch.minimum(
        uniform_N[:, None] * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1))
    )
    index_N = torch.searchsorted(cumulative_NV, point_N1, right=True)[:, 0]
    return index_N.clamp_(max=probs_NV.shape[1] - 1)
