"""Estimates of the divergence KL(policy || reference) from samples of the policy.

Source: Schulman 2020, "Approximating KL divergence".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def k1(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Return log p - log q: unbiased, high variance, may be negative."""
    return log_probs - ref_log_probs


def k2(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Return (log p - log q)² / 2: biased, but its gradient is the divergence's."""
    return 0.5 * (log_probs - ref_log_probs).square()


def k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """Return q/p - 1 - log(q/p): unbiased, low variance, never negative."""
    difference = ref_log_probs - log_probs
    return difference.expm1() - difference
