"""What belongs to an optimiser step beside forward and backward: auxiliary losses, and the experts' load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from portable.model.auxiliary import Auxiliary
from portable.model.head import HeadedModel
from portable.model.moe.balance import Sum, moved_bias
from portable.model.moe.layer import Moe, load_name


def begin_step(parts: Sequence[nn.Module], scale: float) -> None:
    """Say by what the losses of the coming step are multiplied: 1 / number of terms of the whole step."""
    for auxiliary in _auxiliaries(parts):
        auxiliary.scale = scale


def finish_step(parts: Sequence[nn.Module], sum_counts: Sum) -> dict[str, Tensor]:
    """Move the routers' biases by what the step chose; return its auxiliary losses, this rank's sums.

    ``sum_counts`` adds over the ranks whose tokens differ: axis ``data``, and ``tp`` under sequence
    parallelism. It is called at most once, by every rank that holds experts. The losses add up over the same
    ranks.
    """
    sums: dict[str, Tensor] = {}
    for auxiliary in _auxiliaries(parts):
        for name, value in auxiliary.take().items():
            sums[name] = value if name not in sums else sums[name] + value
    layers = [module for part in parts for module in part.modules() if isinstance(module, Moe)]
    if not layers:
        return sums
    own = [sums.pop(load_name(layer.layer), None) for layer in layers]
    zeros = layers[0].router.weight.new_zeros(layers[0].config.num_experts, dtype=torch.float32)
    loads_LE = sum_counts(torch.stack([zeros if counts is None else counts for counts in own]))
    for layer, load_E in zip(layers, loads_LE, strict=True):
        layer.load_E = load_E
        bias_E = layer.router.bias
        if bias_E is not None and layer.config.bias_update_rate:
            bias_E.copy_(moved_bias(bias_E, load_E, layer.config.bias_update_rate))
    return sums


def max_load(parts: Sequence[nn.Module]) -> Tensor | None:
    """Return the load of the busiest expert of the last step, as a multiple of the mean of its layer."""
    loads = [
        m.load_E for part in parts for m in part.modules() if isinstance(m, Moe) and m.load_E is not None
    ]
    return torch.stack([load_E.max() / load_E.mean() for load_E in loads]).max() if loads else None


def _auxiliaries(parts: Sequence[nn.Module]) -> Iterator[Auxiliary]:
    found: dict[int, Auxiliary] = {}
    for part in parts:
        for module in part.modules():
            if isinstance(module, HeadedModel):
                found[id(module.auxiliary)] = module.auxiliary
    yield from found.values()
