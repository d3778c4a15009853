"""DeepSpeed's JSON out of our settings: what the engine is started with, and what a run leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from portable.device.protocol import Dtype
from portable.parallel.config import PrecisionConfig, StrategyConfig
from portable.parallel.strategies.deepspeed.config import DeepspeedConfig

Document = dict[str, Any]  # Any: JSON values

OWN = {"config_file", "aio", *(entry.name for entry in fields(StrategyConfig))}  # not of zero_optimization
ZERO = tuple(entry.name for entry in fields(DeepspeedConfig) if entry.name not in OWN)
OFFLOADS = ("offload_optimizer", "offload_param")


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What a run does besides ``strategy`` and ``precision``, as far as DeepSpeed's JSON speaks of it.

    ``grad_accum_steps`` is None where steps differ in it, as in reinforcement learning.
    """

    micro_batch_size: int
    grad_accum_steps: int | None
    num_readers: int
    max_grad_norm: float
    optimizer: str
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float

    @property
    def global_batch_size(self) -> int | None:
        """Samples of one optimiser step; None where steps differ."""
        if self.grad_accum_steps is None:
            return None
        return self.micro_batch_size * self.grad_accum_steps * self.num_readers


def engine_document(config: DeepspeedConfig, precision: PrecisionConfig) -> Document:
    """Return what the engine is started with.

    The trainer counts samples and micro-batches, and tells the engine where a step ends; the largest norm
    comes with each step. Both are written down even so, because the engine would divide by a number of
    micro-batches of its own choice, and clip at 1.0 where nothing is said.
    """
    document: Document = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "communication_data_type": precision.reduce_dtype.name,
        "zero_optimization": _zero(config),
    }
    if config.stage < 3:  # stage 3 knows averages only
        document["gradient_allreduce_op"] = "sum"
    if precision.compute_dtype is Dtype.bf16:
        document["bf16"] = {"enabled": True}
        if config.stage > 1:
            document["data_types"] = {"grad_accum_dtype": precision.reduce_dtype.name}
    if "nvme" in (config.offload_optimizer.device, config.offload_param.device):
        document["aio"] = asdict(config.aio)
    return document


def to_json(config: DeepspeedConfig, precision: PrecisionConfig, facts: TrainingFacts) -> Document:
    """Return the JSON with which DeepSpeed alone would train as this run does."""
    document = engine_document(config, precision)
    document.pop("gradient_allreduce_op", None)  # a loss that is a mean wants gradients that are means
    if facts.grad_accum_steps is None:
        del document["gradient_accumulation_steps"]
    else:
        document["train_batch_size"] = facts.global_batch_size
        document["gradient_accumulation_steps"] = facts.grad_accum_steps
    return document | {
        "train_micro_batch_size_per_gpu": facts.micro_batch_size,
        "gradient_clipping": facts.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": facts.lr,
                "betas": list(facts.betas),
                "eps": facts.eps,
                "weight_decay": facts.weight_decay,
                "torch_adam": config.offload_optimizer.device == "none",
            },
        },
    }


def _zero(config: DeepspeedConfig) -> Document:
    values: Document = {name: getattr(config, name) for name in ZERO if name not in OFFLOADS}
    if values["overlap_comm"] is None:
        del values["overlap_comm"]
    for name in OFFLOADS:
        offload = asdict(getattr(config, name))
        if offload["device"] == "none":
            continue
        if not offload["nvme_path"]:
            del offload["nvme_path"]
        values[name] = offload
    return values
