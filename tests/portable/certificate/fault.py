"""Faults of parallel training, planted in this process, before the real command is called."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

from portable.cli.main import main
from portable.parallel.context import parallel as context
from portable.parallel.context.order import TokenOrder
from portable.parallel.expert import dispatch
from portable.parallel.gradient import TIED_AXIS
from portable.parallel.pipeline import stage
from portable.parallel.placement import Placement
from portable.parallel.spread_model import SpreadModel
from portable.parallel.strategies.native import NativeStrategy
from portable.parallel.tensor.region import Rim

Fault = Callable[[], AbstractContextManager[Any]]


def left_out_all_reduce() -> AbstractContextManager[Any]:
    return mock.patch.object(Rim, "leave", lambda self, x: x)


@contextlib.contextmanager
def scaled_by_own_tokens() -> Iterator[None]:
    right = SpreadModel.forward_backward

    def wrong(self: SpreadModel, batches: Any, objective: Any, scale: float) -> Any:
        own = list(batches)
        readers = self.runtime.readers.size
        return right(self, own, objective, 1.0 / sum(batch.num_terms for batch in own) / readers)

    with mock.patch.object(SpreadModel, "forward_backward", wrong):
        yield


@contextlib.contextmanager
def mixed_up_token_order() -> Iterator[None]:
    right = context.slice_batch

    def wrong(batch: Any, order: TokenOrder, rank: int, padded: int) -> Any:
        return right(batch, order, order.size - 1 - rank, padded)

    with mock.patch.object(context, "slice_batch", wrong):
        yield


@contextlib.contextmanager
def dropped_token() -> Iterator[None]:
    right = dispatch._travel

    def wrong(rows: Tensor, *where: Any) -> Tensor:
        arrived = right(rows, *where).clone()
        arrived[:1] = 0.0
        return arrived

    with mock.patch.object(dispatch, "_travel", wrong):
        yield


@contextlib.contextmanager
def _not_summed_over(axis: str) -> Iterator[None]:
    right = Placement.summed_over
    with mock.patch.object(Placement, "summed_over", lambda self, a: self if a == axis else right(self, a)):
        yield


def norm_not_summed() -> AbstractContextManager[Any]:
    return _not_summed_over("tp")


def tied_not_summed() -> AbstractContextManager[Any]:
    return _not_summed_over(TIED_AXIS)


@contextlib.contextmanager
def mixed_up_stage() -> Iterator[None]:
    right = stage._keep

    def wrong(part: Any, kept: Any, **where: bool) -> None:
        right(part, list(reversed(kept)), **where)

    with mock.patch.object(stage, "_keep", wrong):
        yield


@contextlib.contextmanager
def averaged() -> Iterator[None]:
    right = NativeStrategy.reduce_gradients

    def wrong(self: NativeStrategy) -> None:
        right(self)
        for shard in self.shards():
            if shard.parameter.grad is not None:
                shard.parameter.grad /= self.mesh.size("data")

    with mock.patch.object(NativeStrategy, "reduce_gradients", wrong):
        yield


# name: (fault, words of the command, where the certificate must say that it begins, and in which phase)
FAULTS: dict[str, tuple[Fault, str, str, str]] = {
    "nothing": (contextlib.nullcontext, "parallel.tp=2", "", ""),
    "row-parallel all-reduce left out": (
        left_out_all_reduce,
        "parallel.tp=2 parallel.enable_sequence_parallel=false",
        "embed",  # the vocabulary is divided, too, and its rows are the first that are added up
        "forward",
    ),
    "loss scaled by the rank's tokens": (scaled_by_own_tokens, "strategy=ddp", "(model)", "backward"),
    "tokens dealt in another order": (mixed_up_token_order, "parallel.cp=2", "embed", "forward"),
    "an expert's token dropped": (
        dropped_token,
        "model=moe_mini parallel.ep=2 strategy=ddp",
        "blocks.1.mlp.experts",
        "forward",
    ),
    "norms not summed over tensor-parallel ranks": (
        norm_not_summed,
        "parallel.tp=2",
        "blocks.0.input_norm.weight",
        "gradient of the parameter",
    ),
    "tied embedding not summed": (
        tied_not_summed,
        "parallel.pp=2",
        "embed.weight",
        "gradient of the parameter",
    ),
    "blocks of a stage in another order": (
        mixed_up_stage,
        "parallel.pp=2 parallel.pipeline_parallel_layers_per_stage=[2,2] model.num_layers=4",
        "blocks.0.input_norm",
        "forward",
    ),
    "averaged instead of summed": (
        averaged,
        "strategy=ddp",
        "embed.weight",
        "gradient of the parameter",
    ),
}
BASE = "model=quickstart_mini seq_len=256 hardware=cpu"


def all_faults(folder: str, *ports: str) -> dict[str, Any]:
    """Plant one after the other; return exit code, page and JSON of each command, which meets at its port."""
    told: dict[str, Any] = {}
    for number, (name, (fault, words, _, _)) in enumerate(FAULTS.items()):
        os.environ["MASTER_PORT"] = ports[number]
        file = Path(folder) / f"certificate-{number}.json"
        page = io.StringIO()
        command = ["verify", "parallel", *BASE.split(), *words.split(), "--steps", "2", "--json", str(file)]
        with fault(), contextlib.redirect_stdout(page):
            code = main(command)
        certificate = json.loads(file.read_text()) if page.getvalue() else None
        told[name] = {"code": code, "page": page.getvalue(), "certificate": certificate}
    return told
