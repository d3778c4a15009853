"""Whether a model, its rows and its steps can be divided as asked: everything that can be told before
anything is built.
"""

from __future__ import annotations

import math

from portable.core.errors import ConfigError
from portable.model.config import ModelConfig
from portable.parallel.config import ParallelConfig
from portable.parallel.context.check import check_context
from portable.parallel.expert.check import check_expert
from portable.parallel.pipeline.schedule.select import make_schedule
from portable.parallel.pipeline.stage import count_layers
from portable.parallel.tensor.check import check_tensor, tensor_facts


def check_layout(config: ParallelConfig, model: ModelConfig, *, seq_len: int, num_micro_batches: int) -> None:
    """Check a model that is trained on rows of ``seq_len`` tokens, ``num_micro_batches`` a step and reader.

    That degrees fill the processes is ``make_layout``'s to check.
    Raises: ConfigError, with the legal values.
    """
    check_tensor(config, tensor_facts(model))
    check_context(config, model.num_heads, model.num_kv_heads)
    check_expert(config, 0 if model.moe is None else model.moe.num_experts)
    if config.pipeline_parallel_degree > 1:
        schedule = make_schedule(config)
        count_layers(model.num_layers, len(schedule.stage_rank), config.pipeline_parallel_layers_per_stage)
        schedule.table(num_micro_batches)
    if model.moe is not None:
        _check_counted_rows(config, seq_len)


def _check_counted_rows(config: ParallelConfig, seq_len: int) -> None:
    """A mixture counts the tokens that it routes, so rows must divide evenly: nothing may fill them up."""
    cp, tp = config.context_parallel_degree, config.tensor_parallel_degree
    chunks = 2 * cp if cp > 1 and config.context_parallel_load_balancer == "headtail" else cp
    step = math.lcm(chunks, cp * tp if config.enable_sequence_parallel else cp)
    if seq_len % step:
        near = sorted({max(seq_len // step, 1) * step, (seq_len // step + 1) * step})
        raise ConfigError(
            f"seq_len={seq_len} cannot be dealt evenly over context_parallel_degree={cp} and "
            f"tensor_parallel_degree={tp}, and a mixture of experts would count what fills rows up; use "
            f"{' or '.join(map(str, near))}, or any multiple of {step}"
        )
