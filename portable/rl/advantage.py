"""How much better each sample is than the others of its group. G groups, S samples a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-6  # only guards the division; a group whose rewards are all equal has advantage 0


def group_relative(rewards_GS: Tensor, *, scale_by_std: bool = True) -> Tensor:
    """Return (reward - group mean) / (group standard deviation + eps), (G, S).

    The deviation is the unbiased one (S - 1). Without ``scale_by_std`` the division is left out (Dr. GRPO,
    Liu et al. 2025): hard and easy prompts then weigh alike.
    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2.
    """
    centred_GS = rewards_GS - rewards_GS.mean(dim=1, keepdim=True)
    if not scale_by_std:
        return centred_GS
    return centred_GS / (rewards_GS.std(dim=1, keepdim=True) + _EPS)
