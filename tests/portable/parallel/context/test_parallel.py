"""The pass in one process: what it replaces, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from portable.collective.local import LocalGroup
from portable.core.errors import ConfigError, ShapeError
from portable.core.record import Batch
from portable.model.config import ModelConfig, MoeConfig
from portable.model.decoder import Decoder
from portable.parallel.config import ParallelConfig
from portable.parallel.context.parallel import ContextParallel
from portable.parallel.context.ring import RingAttention
from portable.parallel.context.ulysses import UlyssesAttention
from portable.parallel.layout import Layout
from portable.parallel.mesh import Mesh
from portable.parallel.runtime import Runtime
from portable.parallel.shard_plan import DECODER


class SilentGroup(LocalGroup):
    """Rank 0 of several that never speak."""

    def __init__(self, axis: str, size: int) -> None:
        super().__init__(axis)
        self.size = size

    def split(self, axis: str, parts: Any) -> SilentGroup:
        return SilentGroup(axis, len(parts[0]))


def make_context(size: int, method: str, inner: int = 1, tensor: int = 1) -> ContextParallel:
    layout = Layout(cp=size, tp=tensor)
    config = ParallelConfig(
        context_parallel_degree=size,
        context_parallel_method=method,
        context_parallel_ulysses_degree=inner,
        tensor_parallel_degree=tensor,
    )
    return ContextParallel(Mesh(layout, SilentGroup("world", layout.world_size), "cpu"), config)


def make_decoder(runtime: Runtime, moe: MoeConfig | None = None) -> Decoder:
    config = ModelConfig(
        vocab_size=9, hidden_size=8, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=4, moe=moe
    )
    with torch.device("meta"):
        return Decoder(config, runtime.kernels)


def make_batch(length: int) -> Batch:
    ids = torch.zeros(1, length, dtype=torch.long)
    return Batch(ids, ids, ids.float(), ids)


@pytest.mark.parametrize(
    ("method", "inner", "outside", "inside"),
    [
        ("ring", 1, RingAttention, None),
        ("ulysses", 1, UlyssesAttention, "AttentionCore"),
        ("hybrid", 2, UlyssesAttention, "RingAttention"),
    ],
)
def test_every_core_is_replaced_and_no_parameter_touched(
    runtime: Runtime, method: str, inner: int, outside: type[nn.Module], inside: str | None
):
    model = make_decoder(runtime)
    names = list(dict(model.named_parameters()))
    make_context(4, method, inner).apply(model, DECODER, runtime.kernels)
    assert list(dict(model.named_parameters())) == names
    for block in model.blocks.values():
        core = block.attention.core
        assert type(core) is outside
        assert inside is None or type(core.core).__name__ == inside


def test_one_rank_changes_nothing(runtime: Runtime):
    context, model, batch = make_context(1, "ring"), make_decoder(runtime), make_batch(5)
    before = [type(module) for module in model.modules()]
    context.apply(model, DECODER, runtime.kernels)
    assert [type(module) for module in model.modules()] == before
    assert context.slice(batch) is batch

    def model_of_ids(ids: Any, positions: Any, cu_seqlens: Any, targets: Any) -> Any:
        return ids, positions, cu_seqlens, targets

    assert context.forward(model_of_ids, *(batch.input_ids_BT,) * 2)[0] is batch.input_ids_BT


def test_a_model_without_a_core_is_refused(runtime: Runtime):
    with pytest.raises(ConfigError, match="names no attention core in this Linear"):
        make_context(2, "ring").apply(nn.Linear(1, 1), DECODER, runtime.kernels)


def test_rows_are_filled_up_so_that_sequence_parallelism_can_go_on():
    cut = make_context(2, "ring", tensor=3).slice(make_batch(13))
    assert cut.input_ids_BT.shape == (1, 12)  # 24 / 2, a multiple of 3


def test_experts_do_not_count_what_fills_a_row_up(runtime: Runtime):
    context = make_context(2, "ring")
    context.apply(
        make_decoder(runtime, MoeConfig(num_experts=4, intermediate_size=8)), DECODER, runtime.kernels
    )
    assert context.slice(make_batch(8)).num_tokens == 4
    with pytest.raises(ShapeError, match=r"rows of 9 tokens .* use rows of a multiple of 4 tokens"):
        context.slice(make_batch(9))
