"""A model and rows small enough to be run many times, which divide, or do not, as the user's own.

What decides how a model divides stays: the remainder of every size by the degrees, heads for each key-value
head, tied or not, which layers have experts, latent attention, prediction of further tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from portable.certificate.foreign import resized
from portable.core.errors import ConfigError
from portable.model.config import MlaConfig, ModelConfig, MoeConfig
from portable.parallel.check import check_layout
from portable.parallel.config import ParallelConfig
from portable.parallel.pipeline.schedule.select import make_schedule

_INIT_STD = 0.1  # of the small model: with less, attention would hardly change what a residual carries
_MOST_LAYERS_A_STAGE = 2


@dataclass(frozen=True, slots=True)
class Trial:
    """What is run: a model, and rows of ``seq_len`` tokens; how it divides is ``parallel``.

    ``foreign`` is the config.json of a model of transformers that is run instead; ``model`` then holds its
    sizes.
    """

    model: ModelConfig
    parallel: ParallelConfig
    seq_len: int
    rows: int  # of a micro-batch
    num_micro_batches: int  # a step and reader
    foreign: Mapping[str, Any] | None = None  # Any: JSON values


def make_trial(
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    seq_len: int,
    full: bool,
    foreign: Mapping[str, Any] | None = None,  # Any: JSON values
) -> Trial:
    """Return the trial of a user's model, whole if ``full``; see ``Trial`` for ``foreign``.

    Raises: ConfigError if the user's own sizes do not go with the layout, as training would.
    """
    count = num_micro_batches(parallel)
    check_layout(parallel, model, seq_len=seq_len, num_micro_batches=count)
    rows = 3 if parallel.tensor_parallel_mode == "1d" else 5  # odd: some layouts fill them up
    if full:
        return Trial(model, parallel, seq_len, rows, count, foreign)
    layers = _layers(model, parallel)
    small = replace(parallel, pipeline_parallel_layers_per_stage=layers)
    length = _seq_len(seq_len, parallel)
    for candidate in _models(model, parallel, sum(layers) or _num_layers(model, parallel), length):
        try:
            check_layout(small, candidate, seq_len=length, num_micro_batches=count)
        except ConfigError:
            continue
        cut = None if foreign is None else resized(foreign, candidate)
        return Trial(candidate, small, length, rows, count, cut)
    raise ConfigError("no smaller model divides as this one does; add --full to run it as it is")


def num_micro_batches(parallel: ParallelConfig) -> int:
    """Return a count that every schedule takes: twice the stages, without a pipeline 2."""
    if parallel.pipeline_parallel_degree == 1:
        return 2
    schedule = make_schedule(parallel)
    return 2 * len(schedule.stage_rank)


def _layers(model: ModelConfig, parallel: ParallelConfig) -> list[int]:
    asked = parallel.pipeline_parallel_layers_per_stage
    return [min(count, _MOST_LAYERS_A_STAGE) for count in asked]


def _num_layers(model: ModelConfig, parallel: ParallelConfig) -> int:
    stages = 1
    if parallel.pipeline_parallel_degree > 1:
        stages = len(make_schedule(parallel).stage_rank)
    least = max(2, stages) if model.num_layers > 1 else 1
    return min(model.num_layers, least + model.num_layers % stages)  # stages stay as uneven as they are


def _seq_len(seq_len: int, parallel: ParallelConfig) -> int:
    cp, tp = parallel.context_parallel_degree, parallel.tensor_parallel_degree
    return _alike(seq_len, math.lcm(2 * cp, cp * tp), 24)


def _alike(size: int, degree: int, least: int) -> int:
    """Return the smallest size from ``least`` up that leaves the same remainder; at most ``size``."""
    return min(size, -(-least // degree) * degree + size % degree)


def _models(model: ModelConfig, parallel: ParallelConfig, layers: int, length: int) -> Iterator[ModelConfig]:
    """Yield small models, the smallest first, of which not all may divide."""
    tp = parallel.tensor_parallel_degree
    moe = None if model.moe is None else _moe(model.moe, parallel, layers)
    mla = None if model.mla is None else _mla(model.mla)
    group = model.num_heads // model.num_kv_heads
    pairs = sorted(
        ((kv, share) for kv in _divisors(model.num_kv_heads) for share in _divisors(group)),
        key=lambda pair: (pair[0] * pair[1], pair[0]),
    )
    for kv_heads, share in pairs:
        keeps_ratio = (share > 1) == (group > 1) and (kv_heads > 1) == (model.num_kv_heads > 1)
        keeps_rest = (kv_heads % tp == 0) == (model.num_kv_heads % tp == 0)
        if not (keeps_ratio and keeps_rest):
            continue
        head_dim = 8 if mla is None else mla.qk_head_dim
        yield replace(
            model,
            vocab_size=_alike(model.vocab_size, 2 * tp, 48),
            hidden_size=_alike(model.hidden_size, tp, 32),
            intermediate_size=_alike(model.intermediate_size, tp, 40),
            num_layers=layers,
            num_heads=kv_heads * share,
            num_kv_heads=kv_heads,
            head_dim=min(head_dim, model.head_dim),
            max_seq_len=max(length, 2),
            init_std=_INIT_STD,
            moe=moe,
            mla=mla,
        )


def _mla(mla: MlaConfig) -> MlaConfig:
    return replace(
        mla,
        kv_lora_rank=min(mla.kv_lora_rank, 16),
        q_lora_rank=min(mla.q_lora_rank, 24),
        qk_nope_head_dim=min(mla.qk_nope_head_dim, 8),
        qk_rope_head_dim=min(mla.qk_rope_head_dim, 4),
        v_head_dim=min(mla.v_head_dim, 8),
    )


def _moe(moe: MoeConfig, parallel: ParallelConfig, layers: int) -> MoeConfig:
    ep = parallel.expert_parallel_degree
    grouped = moe.num_groups > 1
    unit = math.lcm(ep, 4) if grouped else ep  # two groups of two and more
    return replace(
        moe,
        num_experts=_alike(moe.num_experts, unit, max(4, ep)),
        top_k=min(moe.top_k, 2),
        intermediate_size=_alike(moe.intermediate_size, parallel.tensor_parallel_degree, 24),
        first_dense_layers=min(moe.first_dense_layers, 1, layers - 1),
        num_groups=2 if grouped else 1,
        top_k_groups=1,
    )


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
