"""Settings of supervised fine-tuning."""

import math
from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError
from portable.train.config import TrainConfig


class AdapterKind(Enum):
    """Which weights learn."""

    full = "full"
    lora = "lora"


class Overlong(Enum):
    """What becomes of a conversation that is longer than ``seq_len``; either way it is counted and logged."""

    drop = "drop"
    truncate = "truncate"


@dataclass(kw_only=True, slots=True)
class AdapterConfig:
    """``lora`` learns a low-rank addition ``alpha / r * B A`` to the linear layers whose names end in
    ``target_modules`` (Hu et al. 2021, arXiv:2106.09685), and merges it into the weights at the end. ``full``
    reads no other field.
    """

    kind: AdapterKind = AdapterKind.full
    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: ["q", "k", "v", "o", "gate", "up", "down"])

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"sft.adapter.r={self.r}; use a rank of at least 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"sft.adapter.dropout={self.dropout}; use 0 or more and less than 1")


@dataclass(kw_only=True, slots=True)
class SftConfig(TrainConfig):
    """Fine-tune the model folder ``model_path`` on the conversations folder ``data``.

    ``steps=0`` means ``epochs`` passes over the data. Batch sizes are in rows of at most ``seq_len`` tokens;
    with ``packing`` a row holds as many whole conversations as fit. ``arithmetic_format_examples``
    conversations show the form of the arithmetic task with random answers, so that RL later starts from the
    form and from no knowledge of sums. ``num_questions`` held-out questions are answered before and after.
    """

    model_path: str = ""
    data: str = ""
    steps: int = 0
    epochs: float = 2.0
    seq_len: int = 256
    micro_batch_size: int = 4
    global_batch_size: int = 4
    packing: bool = True
    overlong: Overlong = Overlong.drop
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    arithmetic_format_examples: int = 2000
    arithmetic_num_digits: int = 1
    num_questions: int = 64
    max_new_tokens: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps != 0:
            TrainConfig.__post_init__(self)
        elif self.epochs <= 0:
            raise ConfigError(
                f"sft.epochs={self.epochs} with steps=0 trains on nothing; use a positive number of either"
            )
        for name, value in (
            ("seq_len", self.seq_len),
            ("micro_batch_size", self.micro_batch_size),
            ("global_batch_size", self.global_batch_size),
            ("num_questions", self.num_questions),
            ("max_new_tokens", self.max_new_tokens),
            ("arithmetic_num_digits", self.arithmetic_num_digits),
        ):
            if value < 1:
                raise ConfigError(f"sft.{name}={value}; use at least 1")
        count = self.arithmetic_format_examples
        if count < 0:
            raise ConfigError(f"sft.arithmetic_format_examples={count}; use 0 or more")

    def grad_accum_steps(self, world_size: int) -> int:
        """Return the micro-batches that each of ``world_size`` processes reads per step.

        Raises: ConfigError, with the nearest legal values, if the batch cannot be dealt out evenly.
        """
        per_pass = self.micro_batch_size * world_size
        passes, rest = divmod(self.global_batch_size, per_pass)
        if rest:
            near = " or ".join(str(count * per_pass) for count in (passes, passes + 1) if count)
            raise ConfigError(
                f"sft.global_batch_size={self.global_batch_size} is not a multiple of "
                f"micro_batch_size × processes = {self.micro_batch_size} × {world_size}; "
                f"use global_batch_size={near}"
            )
        return passes

    def num_steps(self, num_rows: int) -> int:
        """Return the optimiser steps of the run: ``steps``, or as many as ``epochs`` passes over the rows
        take.
        """
        return self.steps or max(1, math.ceil(self.epochs * num_rows / self.global_batch_size))
