"""Weights and optimiser state of an engine's parameters, whole, whatever its stage and wherever they are.

DeepSpeed's public functions (``safe_get_full_fp32_param`` and its like) find a parameter's fragments in flat
buffers and join them. Where they say nothing, at stage 0 and for frozen parameters, values lie in the open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.errors import CapabilityError
from portable.parallel.strategies.deepspeed.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")


def read_weight(engine: Engine, parameter: nn.Parameter) -> Tensor:
    """Return the whole weight in float32 where the engine keeps that; all ranks must call."""
    from deepspeed.utils import safe_get_full_fp32_param

    weight = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
    if weight is not None:
        return weight.detach().view(whole_shape(parameter))
    with _gathered(parameter):
        return parameter.detach().clone()


def write_weight(engine: Engine, parameter: nn.Parameter, whole: Tensor) -> None:
    """Set the weight that is updated and the one that computes; all ranks must call, then ``publish``."""
    from deepspeed.utils import safe_set_full_fp32_param

    if parameter.requires_grad:
        safe_set_full_fp32_param(parameter, whole.to(torch.float32))
    if is_divided(parameter) or not parameter.requires_grad or engine.zero_optimization_stage() == 0:
        with _gathered(parameter, writes=True):
            parameter.data.copy_(whole)


def publish(engine: Engine) -> None:
    """Bring the weights that are updated into those that compute, where they are not divided."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer.update_lp_params()


def read_moment(engine: Engine, parameter: nn.Parameter, key: str) -> Tensor:
    """Return a moment, whole; all ranks must call."""
    from deepspeed.utils import safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return engine.optimizer.state[parameter][key]
    return _found(safe_get_full_optimizer_state(parameter, key), key).view(whole_shape(parameter))


def write_moment(engine: Engine, parameter: nn.Parameter, key: str, whole: Tensor) -> None:
    """Set a moment; all ranks must call."""
    from deepspeed.utils import safe_set_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        engine.optimizer.state[parameter][key].copy_(whole)
    else:
        safe_set_full_optimizer_state(parameter, whole.to(torch.float32), key)


def read_step(engine: Engine) -> Tensor:
    """Return the number of steps taken, a scalar on the host; the engine updates all parameters alike."""
    _, state = next(_states(engine))
    return torch.tensor(float(state["step"]))


def write_step(engine: Engine, step: Tensor) -> None:
    """Set the number of steps taken."""
    for _, state in _states(engine):
        state["step"] = step.clone().cpu() if isinstance(state["step"], Tensor) else int(step)


def prepare(engine: Engine) -> None:
    """Give the optimiser the state that its first step would find: zeros."""
    for flat, state in _states(engine):
        if state:
            continue
        optimizer = engine.basic_optimizer
        if hasattr(optimizer, "prepare"):
            optimizer.prepare(flat)
        else:  # DeepSpeed's own for the host, whose count is a plain number
            state["step"] = 0
            state.update({key: torch.zeros_like(flat.data, device="cpu") for key in MOMENTS})
    if engine.zero_optimization_stage() in (1, 2):
        # The engine makes views of the state for each parameter in its first step; there is no public way to
        # have them before.
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def held_tensors(engine: Engine) -> dict[str, list[Tensor]]:
    """Return the engine's buffers by class, as far as they are there: flat weights and the float32 ones that
    are updated, gradients on their way to the step, moments.
    """
    optimizer = engine.optimizer
    flats = [flat for flat, _ in _states(engine)]
    divided = [parameter.ds_tensor for parameter in engine.module.parameters() if is_divided(parameter)]
    gathered = getattr(optimizer, "averaged_gradients", {}).values()
    gradients = [gradient for group in gathered if group for gradient in group]
    gradients += [flat.grad for flat in flats if flat.grad is not None]
    whole = getattr(optimizer, "grad_partitions_flat_buffer", None)
    states = engine.basic_optimizer.state.values()
    return {
        "parameters": [*flats, *getattr(optimizer, "bit16_groups_flat", []), *divided],
        "gradients": [*gradients, *([] if whole is None else [whole])],
        "optimizer": [value for state in states for value in state.values() if isinstance(value, Tensor)],
    }


def is_divided(parameter: nn.Parameter) -> bool:
    """Whether stage 3 keeps a part of the parameter only."""
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return the shape of the whole parameter."""
    # DeepSpeed notes on a parameter that it divides what it was
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _states(engine: Engine) -> Iterator[tuple[Tensor, dict[str, Any]]]:  # Any: tensors, numbers
    """Yield every buffer that the optimiser updates, with its state."""
    stage = engine.zero_optimization_stage()
    state: Mapping[Tensor, dict[str, Any]] = engine.basic_optimizer.state
    if stage == 0:
        flats = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
    elif stage == 3:
        flats = engine.optimizer.fp32_partitioned_groups_flat
    else:
        flats = engine.optimizer.single_partition_of_fp32_groups
    for flat in flats:
        yield flat, state[flat]


def _found(value: Tensor | None, key: str) -> Tensor:
    if value is None:
        raise CapabilityError(f"strategy=deepspeed has no state '{key}' of a parameter that trains")
    return value


def _gathered(parameter: nn.Parameter, *, writes: bool = False) -> AbstractContextManager[None]:
    """Make a divided parameter whole for a while; what rank 0 writes reaches all."""
    from deepspeed import zero

    return zero.GatheredParameters(
        [parameter], modifier_rank=0 if writes else None, enabled=is_divided(parameter)
    )
