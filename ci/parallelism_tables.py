"""Tables of docs/parallelism.md that the code knows better: what goes together, and names from elsewhere.

``python -m ci.parallelism_tables`` writes them into the page. A cell of the former is a layout of ranks
that are not there: settings, layout, sizes and the strategy are checked as at the start of a run, and a
small model without memory goes through every pass as on the first rank.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from portable.certificate.world import fitting_world
from portable.collective.local import LocalGroup
from portable.config.alias import ALIASES, WORDS
from portable.core.errors import CapabilityError, ConfigError
from portable.device.protocol import Dtype
from portable.model.config import MlaConfig, ModelConfig, MoeConfig, MtpConfig
from portable.model.decoder import Decoder
from portable.parallel.ability import check_compilation, check_float8
from portable.parallel.build import STRATEGIES
from portable.parallel.check import check_layout
from portable.parallel.config import (
    CompileConfig,
    Float8Config,
    ParallelConfig,
    PrecisionConfig,
    RecomputeConfig,
    TileConfig,
)
from portable.parallel.degrees import make_layout
from portable.parallel.mesh import Mesh
from portable.parallel.placement import Extent
from portable.parallel.runtime import Runtime
from portable.parallel.spread import spread
from portable.testing.runtime import STRATEGIES as SETTINGS
from portable.testing.runtime import make_runtime

PAGE = Path(__file__).parents[1] / "docs" / "parallelism.md"
_DENSE = ModelConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
)
_MOE = MoeConfig(num_experts=4, top_k=2, intermediate_size=32)
_SEQ_LEN, _MICRO_BATCHES = 32, 8
_MANY = 9  # words of a setting that are no longer a list to read


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a user writes for one thing: settings, a strategy, a kind of model."""

    parallel: dict[str, Any] = field(default_factory=dict[str, Any])  # Any: a setting's value
    strategy: str = ""
    precision: PrecisionConfig | None = None
    model: dict[str, Any] = field(default_factory=dict[str, Any])
    foreign: bool = False  # a model of transformers, dense or with experts
    window: int = 0  # tokens that its attention sees


def _axis(name: str, degree: int, **more: Any) -> Choice:
    model = {"moe": _MOE} if name == "expert" else {}
    return Choice(parallel={f"{name}_parallel_degree": degree, **more}, model=model)


_FOUR = {"tensor_parallel_mode": "2d"}
_EIGHT = {"tensor_parallel_mode": "2.5d", "tensor_parallel_depth": 2}
_HYBRID = {"context_parallel_method": "hybrid", "context_parallel_ulysses_degree": 2}
AXES: dict[str, tuple[Choice, ...]] = {
    "`dp`": (Choice(strategy="ddp"),),
    "`fsdp`": (Choice(strategy="fsdp"),),
    "`tp` 1d": (_axis("tensor", 2),),
    "`tp` 2d, 2.5d, 3d": (
        _axis("tensor", 4, **_FOUR),
        _axis("tensor", 8, **_EIGHT),
        _axis("tensor", 8, tensor_parallel_mode="3d"),
    ),
    "`cp` ring, ulysses, hybrid": (
        _axis("context", 2),
        _axis("context", 2, context_parallel_method="ulysses"),
        _axis("context", 4, **_HYBRID),
    ),
    "`ep`": (_axis("expert", 2),),
    "`pp`": (_axis("pipeline", 2),),
}
_MLA = MlaConfig(kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)
_FP16 = Choice(precision=PrecisionConfig(compute_dtype=Dtype.fp16))
_BUDGET = Choice(parallel={"recompute": RecomputeConfig(mode="budget")})
_COMPILED = Choice(parallel={"compile": CompileConfig(enable=True)})
_WHOLE_TOKENS = Choice(parallel={"enable_sequence_parallel": False})
ENGINES = {f"`strategy={name}`": (Choice(strategy=name),) for name in ("deepspeed", "accelerate")}
THINGS: dict[str, tuple[Choice, ...]] = {
    "`strategy=zero1`, `zero2`, `zero3`": tuple(Choice(strategy=f"zero{n}") for n in (1, 2, 3)),
    **ENGINES,
    "experts": (Choice(model={"moe": _MOE}),),
    "latent attention": (
        Choice(model={"mla": _MLA, "qk_norm": False, "head_dim": _MLA.qk_head_dim, "num_kv_heads": 8}),
    ),
    "multi-token prediction": (Choice(model={"mtp": MtpConfig()}),),
    "a model of `transformers`": (Choice(foreign=True), Choice(foreign=True, model={"moe": _MOE})),
    "`recompute`": (Choice(parallel={"recompute": RecomputeConfig(mode="full")}), _BUDGET),
    "`tile`": (Choice(parallel={"tile": TileConfig(mlp_chunks=2)}),),
    "`compile`": (_COMPILED,),
    "bf16, float8": (
        Choice(precision=PrecisionConfig(compute_dtype=Dtype.bf16)),
        Choice(precision=PrecisionConfig(float8=Float8Config(recipe="rowwise", emulate=True))),
    ),
    "fp16": (_FP16,),
}
REFUSED: dict[str, tuple[Choice, ...]] = {
    "`tp` with `ep`, without sequence parallelism": (*AXES["`tp` 1d"], *AXES["`ep`"], _WHOLE_TOKENS),
    "`compile` with `recompute.mode=budget`": (_COMPILED, _BUDGET),
    "`ep` without experts": (Choice(parallel={"expert_parallel_degree": 2}),),
    "a window of attention in a ring": (
        *AXES["`cp` ring, ulysses, hybrid"][:1],
        Choice(foreign=True, window=8),
    ),
}
"""What more than a pair, or something else than an axis, makes impossible."""


class PaperGroup(LocalGroup):
    """As the first of several ranks sees its group before anything is sent."""

    communicator = "gloo"

    def __init__(self, ranks: Sequence[int], axis: str = "world") -> None:
        super().__init__(axis)
        self.ranks = tuple(ranks)
        self.size = len(ranks)
        self.process_group: Any = _Handle(self.size) if self.size > 1 else None  # asked for its size only

    def split(self, axis: str, parts: Sequence[Sequence[int]]) -> PaperGroup:
        """Return the part of the first rank."""
        return PaperGroup(next(part for part in parts if 0 in part), axis)

    def subgroup(self, axis: str, ranks: Sequence[int]) -> PaperGroup | None:
        """Return a group that the first rank is in."""
        return PaperGroup(ranks, axis) if 0 in ranks else None


class _Handle:
    """In the place of torch's group."""

    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        """Return the number of ranks."""
        return self._size


class _PaperStrategy:
    """Takes a model's parts and leaves them."""

    wraps_meta = True

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []

    def wrap(self, parts: Sequence[nn.Module], placements: object) -> None:
        """Keep the parts."""
        self.modules = list(parts)

    def holdings(self) -> list[Any]:
        """Return nothing: weights need no values."""
        return []

    def publish(self) -> None:
        """Do nothing."""


def refusal(*choices: Choice, runtime: Runtime) -> str:
    """Return why choices do not go together, in the code's words; "" if nothing speaks against."""
    try:
        _try(list(choices), runtime)
    except (ConfigError, CapabilityError) as error:
        return str(error)
    return ""


def _try(choices: list[Choice], runtime: Runtime) -> None:
    parallel = ParallelConfig(
        **{name: value for choice in choices for name, value in choice.parallel.items()}
    )
    model = replace(_DENSE, **{name: value for choice in choices for name, value in choice.model.items()})
    precision = next((choice.precision for choice in choices if choice.precision), PrecisionConfig())
    strategy = _strategy_of(choices, parallel)
    if strategy == "hsdp":
        parallel = replace(parallel, data_parallel_replicate_degree=2)
    capability, hardware = runtime.device.capability(), runtime.hardware.name
    check_compilation(parallel, capability, hardware)
    check_float8(precision.float8, capability, hardware)
    layout = make_layout(parallel, strategy, fitting_world(parallel, strategy))
    check_layout(parallel, model, seq_len=_SEQ_LEN, num_micro_batches=_MICRO_BATCHES)
    mesh = Mesh(layout, PaperGroup(range(layout.world_size)), "cpu")
    STRATEGIES.get(strategy)(SETTINGS[strategy](name=strategy), precision, mesh, runtime.device)
    new_strategy: Any = _PaperStrategy
    paper = replace(
        runtime, mesh=mesh, parallel=parallel, precision=precision, new_strategy=new_strategy, modules={}
    )
    if any(choice.foreign for choice in choices):
        module = _foreign(model, max(choice.window for choice in choices), paper)
    else:
        with torch.device("meta"):
            module = Decoder(model, paper.kernels)
    spread(module, paper, nullcontext, fill=_zeros)


def _strategy_of(choices: Sequence[Choice], parallel: ParallelConfig) -> str:
    """Return what was asked for; experts alone are divided over ranks that read different samples."""
    asked = list(dict.fromkeys(choice.strategy for choice in choices if choice.strategy))
    if set(asked) == {"ddp", "fsdp"}:
        return "hsdp"
    asked = [name for name in asked if name != "ddp"] or asked
    alone = "ddp" if parallel.expert_parallel_degree > 1 else "single"
    return asked[0] if asked else alone


def _zeros(name: str, shape: tuple[int, ...], extent: Extent) -> Tensor:
    return torch.zeros(extent.shape)


def _foreign(model: ModelConfig, window: int, runtime: Runtime) -> nn.Module:
    """Return a Qwen3 of transformers of the same sizes."""
    from transformers import AutoConfig

    from portable.model.hf.folder import bare_hf

    sizes: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
    }
    if model.moe is not None:
        sizes |= {
            "num_experts": model.moe.num_experts,
            "num_experts_per_tok": model.moe.top_k,
            "moe_intermediate_size": model.moe.intermediate_size,
        }
    if window:
        sizes |= {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    kind = "qwen3" if model.moe is None else "qwen3_moe"
    return bare_hf(AutoConfig.for_model(kind, **sizes), runtime.kernels)[0]


def _cell(name: str, column: str, runtime: Runtime) -> str:
    """Return yes or no; nothing where both are forms of one thing."""
    pairs = [(a, b) for a in (AXES | THINGS)[name] for b in (AXES | THINGS)[column]]
    if all(set(a.parallel) & set(b.parallel) for a, b in pairs):
        return ""
    if column in ENGINES and all(a.strategy and b.strategy for a, b in pairs):
        return ""
    told = {not refusal(*pair, runtime=runtime) for pair in pairs}
    if len(told) > 1:
        raise ValueError(f"forms of {name} and {column} differ; give them a line of their own")
    return "yes" if told.pop() else "no"


def compositions(runtime: Runtime) -> str:
    """Return the tables of what goes together, and of what does not."""
    axes = list(AXES)
    lines = [f"| | {' | '.join(axes[1:])} |", "| --- |" + " :-: |" * (len(axes) - 1)]
    for place, name in enumerate(axes[:-1]):
        cells = [_cell(name, column, runtime) if place < axes.index(column) else "" for column in axes[1:]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    columns = [*axes, *ENGINES]
    lines += ["", f"| | {' | '.join(columns)} |", "| --- |" + " :-: |" * len(columns)]
    for name in THINGS:
        lines.append(f"| {name} | {' | '.join(_cell(name, column, runtime) for column in columns)} |")
    lines += ["", "| refused besides | in the words of the error |", "| --- | --- |"]
    lines += [f"| {name} | {refusal(*choices, runtime=runtime)} |" for name, choices in REFUSED.items()]
    return "\n".join(lines)


def names() -> str:
    """Return the table of other projects' names, by the setting that they mean here."""
    found: dict[str, list[str]] = {}
    for name, target in ALIASES.items():
        found.setdefault(target, []).append(f"`{name.removeprefix('parallel.')}`")
    for name, (target, words) in WORDS.items():
        told = ", ".join(f"{word}: {ours or 'as ever'}" for word, ours in words.items() if word != ours)
        word = f"`{name.removeprefix('parallel.')}`"
        found.setdefault(target, []).append(f"{word} ({told})" if len(words) < _MANY and told else word)
    rows = [f"| `{target}` | {', '.join(found[target])} |" for target in sorted(found, key=_parallel_first)]
    return "\n".join(["| here | also understood |", "| --- | --- |", *rows])


def _parallel_first(target: str) -> tuple[bool, str]:
    return not target.startswith("parallel."), target


def write(page: str, mark: str, found: str) -> str:
    """Return the page with ``found`` between its marks. Raises: ValueError if it has none."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"the page has no {begin} and {end}")
    return f"{before}{begin}\n{found}\n{end}{after}"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    text = write(PAGE.read_text(encoding="utf-8"), "names", names())
    PAGE.write_text(write(text, "compositions", compositions(make_runtime())), encoding="utf-8")
