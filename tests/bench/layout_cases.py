"""The models and layouts of ``layout_parity``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from portable.certificate.shrink import Trial
from portable.model.config import Gate, MlaConfig, ModelConfig, MoeConfig
from portable.parallel.config import ParallelConfig, RecomputeConfig, TileConfig
from portable.parallel.pipeline.schedule.select import SCHEDULES
from portable.testing.strategy import decoder
from tests.portable.model.hf.folders import SIZES

SAMPLES = 16  # of a step, over all readers
SHAPE: dict[str, Any] = decoder.SHAPE | {"init_std": 0.1}
MIXTURE = MoeConfig(num_experts=4, top_k=2, intermediate_size=24, aux_loss_coef=0.01)
DENSE = ModelConfig(**SHAPE)
MODELS: dict[str, ModelConfig] = {
    "dense": DENSE,
    "untied": ModelConfig(**SHAPE, tie_embeddings=False, qk_norm=False),
    "moe": ModelConfig(
        **SHAPE,
        moe=replace(MIXTURE, num_shared_experts=1, gate=Gate.sigmoid, bias_update_rate=0.01),
    ),
    "mixtral": ModelConfig(**SHAPE, moe=MIXTURE, qk_norm=False, tie_embeddings=False),
    "mla": ModelConfig(
        **SHAPE | {"num_kv_heads": 4, "head_dim": 12, "qk_norm": False},
        mla=MlaConfig(kv_lora_rank=16, q_lora_rank=24, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8),
    ),
    "8 layers": replace(DENSE, num_layers=8),
    "5 layers": replace(DENSE, num_layers=5),
    "3 layers": replace(DENSE, num_layers=3),
    "23 tokens": DENSE,
    "moe, 23 tokens": ModelConfig(**SHAPE, moe=MIXTURE),
    "3 heads": replace(DENSE, num_heads=3, num_kv_heads=3),
    "1 key-value head": replace(DENSE, num_kv_heads=1),
    "5 experts": ModelConfig(**SHAPE, moe=replace(MIXTURE, num_experts=5)),
}
FOREIGN: dict[str, dict[str, Any]] = {}
for _kind, _more in (
    ("llama", {}),
    ("qwen3", {"tie_word_embeddings": True}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
):
    FOREIGN[f"HF {_kind}"] = {"model_type": _kind, **SIZES, **_more}
    MODELS[f"HF {_kind}"] = DENSE


def trial_of(model: str, parallel: ParallelConfig, readers: int) -> Trial:
    """Return what is trained: the same samples in every layout, in as many micro-batches as it needs.

    Experts' balance is a sum over micro-batches, so theirs are the same.
    """
    shape = MODELS[model]
    pipelined = parallel.pipeline_parallel_degree > 1
    count = 4 if shape.moe is not None else 8 if pipelined else 2 * readers
    seq_len = 23 if "23" in model else 24
    return Trial(shape, parallel, seq_len, SAMPLES // count, count // readers, FOREIGN.get(model))


@dataclass(frozen=True, slots=True)
class Case:
    """One layout of one model."""

    model: str
    name: str
    strategy: str = "single"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def parallel(self) -> ParallelConfig:
        return ParallelConfig(**self.settings)


def TP(n: int = 2, **more: Any) -> dict[str, Any]:
    return {"tensor_parallel_degree": n, **more}


def PP(n: int = 2, schedule: str = "1F1B", **more: Any) -> dict[str, Any]:
    return {"pipeline_parallel_degree": n, "pipeline_parallel_schedule": schedule, **more}


def CP(n: int = 2, method: str = "ring", **more: Any) -> dict[str, Any]:
    return {"context_parallel_degree": n, "context_parallel_method": method, **more}


def EP(n: int = 2) -> dict[str, Any]:
    return {"expert_parallel_degree": n}


PLAIN = {"enable_sequence_parallel": False}
UNBALANCED = {"context_parallel_load_balancer": "none"}
HYBRID = {"context_parallel_ulysses_degree": 2}
CUBE = TP(8, tensor_parallel_mode="3d")
DEEP = TP(8, tensor_parallel_mode="2.5d", tensor_parallel_depth=2)
REPLICAS = {"data_parallel_replicate_degree": 2}
DATA = ("ddp", "zero1", "zero2", "zero3", "fsdp")

ONE = [
    Case("dense", "again"),
    *(
        Case("dense", f"recompute {mode}", settings={"recompute": RecomputeConfig(mode=mode)})
        for mode in ("full", "selective", "budget")
    ),
    Case("dense", "tiled feed-forward", settings={"tile": TileConfig(mlp_chunks=3)}),
    Case("moe", "again"),
    Case("moe", "recompute full", settings={"recompute": RecomputeConfig(mode="full")}),
]
TWO = [
    *(Case("dense", name, name) for name in DATA),
    Case("dense", "tp", settings=TP(**PLAIN)),
    Case("dense", "tp, sequence", settings=TP()),
    Case("untied", "tp, sequence", settings=TP()),
    Case("mla", "tp, sequence", settings=TP()),
    *(Case("dense", f"pp {name}", settings=PP(2, name)) for name in SCHEDULES),
    Case("untied", "pp ZBVZeroBubble", settings=PP(2, "ZBVZeroBubble")),
    Case("dense", "cp ring", settings=CP()),
    Case("dense", "cp ring, not balanced", settings=CP(**UNBALANCED)),
    Case("dense", "cp ulysses", settings=CP(2, "ulysses")),
    Case("mla", "cp ring", settings=CP()),
    *(Case("moe", f"ep, {name}", name, EP()) for name in ("ddp", "zero1", "zero2", "fsdp")),
    Case("mixtral", "ep, ddp", "ddp", EP()),
    Case("moe", "tp", settings=TP(**PLAIN)),
    Case("moe", "tp, sequence", settings=TP()),
    Case("moe", "pp 1F1B", settings=PP()),
    Case("moe", "pp DualPipeV", settings=PP(2, "DualPipeV")),
    Case("moe", "cp ring", settings=CP()),
    Case("moe", "cp ulysses", settings=CP(2, "ulysses")),
    *(Case(f"HF {kind}", *rest) for kind in ("llama", "qwen3", "mixtral") for rest in (
        ("fsdp", "fsdp"), ("tp, sequence", "single", TP()), ("pp 1F1B", "single", PP()),
        ("cp ring", "single", CP()))),
    Case("HF mixtral", "ep, ddp", "ddp", EP()),
]  # fmt: skip
FOUR = [
    *(Case("dense", name, name) for name in DATA),
    Case("dense", "hsdp", "hsdp", REPLICAS),
    Case("dense", "zero1, 2 replicas", "zero1", REPLICAS),
    Case("dense", "zero2, 2 replicas", "zero2", REPLICAS),
    *(Case("dense", f"tp, sequence, {name}", name, TP()) for name in DATA[:-1]),
    *(Case("dense", f"pp 1F1B, {name}", name, PP()) for name in DATA[:-1]),
    *(Case("dense", f"cp ring, {name}", name, CP()) for name in DATA[:-1]),
    *(Case("moe", f"ep, {name}", name, EP()) for name in DATA[:-1]),
    Case("moe", "ep, hsdp", "hsdp", EP() | REPLICAS),
    Case("dense", "pp ZBVZeroBubble, fsdp", "fsdp", PP(2, "ZBVZeroBubble")),
    Case("dense", "pp ZBVZeroBubble, zero2", "zero2", PP(2, "ZBVZeroBubble")),
    Case("dense", "pp DualPipeV, ddp", "ddp", PP(2, "DualPipeV")),
    Case("dense", "pp InterleavedZeroBubble, fsdp", "fsdp", PP(2, "InterleavedZeroBubble")),
    *(Case("8 layers", f"pp {name}", settings=PP(4, name)) for name in SCHEDULES),
    Case("dense", "tp 4, sequence", settings=TP(4)),
    Case("dense", "tp 4", settings=TP(4, **PLAIN)),
    *(Case(model, f"tp {mode}", settings=TP(4, tensor_parallel_mode=mode))
      for model in ("dense", "untied") for mode in ("2d", "2.5d")),
    Case("dense", "cp 4 ring", settings=CP(4)),
    Case("dense", "cp 4 ulysses", settings=CP(4, "ulysses")),
    Case("dense", "cp 4 hybrid", settings=CP(4, "hybrid", **HYBRID)),
    Case("moe", "ep 4, fsdp", "fsdp", EP(4)),
    Case("mixtral", "ep 4, ddp", "ddp", EP(4)),
    Case("dense", "tp, cp ring", settings=TP() | CP()),
    Case("dense", "tp, cp ulysses", settings=TP() | CP(2, "ulysses")),
    Case("dense", "tp, pp 1F1B", settings=TP() | PP()),
    Case("dense", "tp, pp ZBVZeroBubble", settings=TP() | PP(2, "ZBVZeroBubble")),
    Case("dense", "cp ring, pp 1F1B", settings=CP() | PP()),
    Case("moe", "ep, tp, ddp", "ddp", EP() | TP()),
    Case("moe", "ep, tp, fsdp", "fsdp", EP() | TP()),
    Case("moe", "ep 4 over tp, fsdp", "fsdp", EP(4) | TP()),
    Case("moe", "ep, cp, fsdp", "fsdp", EP() | CP()),
    Case("moe", "ep, cp, zero1", "zero1", EP() | CP()),
    Case("moe", "ep, pp, ddp", "ddp", EP() | PP()),
    Case("moe", "ep, pp, fsdp", "fsdp", EP() | PP()),
    Case("mla", "tp, cp", settings=TP() | CP()),
]  # fmt: skip
_HF_PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    ("hsdp", "hsdp", REPLICAS),
    ("tp, ddp", "ddp", TP()),
    ("tp, fsdp", "fsdp", TP()),
    ("cp, ddp", "ddp", CP()),
    ("cp, fsdp", "fsdp", CP()),
    ("pp, ddp", "ddp", PP()),
    ("pp, fsdp", "fsdp", PP()),
    ("tp, cp", "single", TP() | CP()),
    ("tp, pp", "single", TP() | PP()),
    ("cp, pp", "single", CP() | PP()),
]
_HF_EXPERTS: list[tuple[str, str, dict[str, Any]]] = [
    ("ep, ddp", "ddp", EP()),
    ("ep, fsdp", "fsdp", EP()),
    ("ep, tp", "ddp", EP() | TP()),
    ("ep, cp", "ddp", EP() | CP()),
    ("ep, pp", "ddp", EP() | PP()),
]
FOUR += [Case(f"HF {kind}", *pair) for kind in ("llama", "qwen3", "mixtral") for pair in _HF_PAIRS]
FOUR += [Case("HF mixtral", *pair) for pair in _HF_EXPERTS]
EIGHT = [
    Case("dense", "tp 3d", settings=CUBE),
    Case("untied", "tp 3d", settings=CUBE),
    Case("dense", "tp 2.5d, depth 2", settings=DEEP),
    Case("untied", "tp 2.5d, depth 2", settings=DEEP),
    Case("dense", "tp, pp, fsdp", "fsdp", TP() | PP()),
    Case("dense", "tp, cp, pp", settings=TP() | CP() | PP()),
    Case("moe", "ep, tp, pp, fsdp", "fsdp", EP() | TP() | PP()),
    Case("moe", "ep, cp, hsdp", "hsdp", EP() | CP() | REPLICAS),
]  # fmt: skip
# Sizes that do not divide: the layout computes the same, or is refused before the first step.
UNEVEN_TWO = [
    Case("5 layers", "pp 1F1B", settings=PP()),
    Case("5 layers", "pp ZBVZeroBubble", settings=PP(2, "ZBVZeroBubble")),
    Case("5 layers", "pp 1F1B, 1 and 4", settings=PP(pipeline_parallel_layers_per_stage=[1, 4])),
    Case("3 layers", "pp ZBVZeroBubble", settings=PP(2, "ZBVZeroBubble")),
    Case("23 tokens", "cp ring", settings=CP()),
    Case("23 tokens", "cp ulysses", settings=CP(2, "ulysses")),
    Case("23 tokens", "tp, sequence", settings=TP()),
    Case("moe, 23 tokens", "cp ring", settings=CP()),
    Case("3 heads", "tp", settings=TP()),
    Case("3 heads", "cp ulysses", settings=CP(2, "ulysses")),
    Case("3 heads", "cp ring", settings=CP()),
    Case("1 key-value head", "tp, sequence", settings=TP()),
    Case("1 key-value head", "cp ulysses", settings=CP(2, "ulysses")),
    Case("5 experts", "ep, ddp", "ddp", EP()),
    Case("5 experts", "ep, fsdp", "fsdp", EP()),
]
UNEVEN_FOUR = [
    Case("5 layers", "pp 1F1B", settings=PP(4)),
    Case("23 tokens", "cp 4 ring", settings=CP(4)),
    Case("23 tokens", "tp, cp ring", settings=TP() | CP()),
    Case("1 key-value head", "tp 4", settings=TP(4)),
    Case("1 key-value head", "tp 2d", settings=TP(4, tensor_parallel_mode="2d")),
    Case("5 experts", "ep 4, fsdp", "fsdp", EP(4)),
]
CASES = {1: ONE, 2: TWO, 4: FOUR, 8: EIGHT}
UNEVEN = {2: UNEVEN_TWO, 4: UNEVEN_FOUR}
