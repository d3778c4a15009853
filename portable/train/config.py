"""Settings of the loop, the optimiser and the schedule."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from portable.core.errors import ConfigError
from portable.device.protocol import Dtype


class Decay(Enum):
    """The shape of the learning rate after warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"  # constant, then linear to the end over the last ``decay_fraction`` of the steps
    wsd_sqrt = "wsd_sqrt"  # the same, falling as 1 - sqrt: steeply at first


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate over steps, as a factor of the optimiser's ``lr``."""

    name: str = "cosine"
    decay: Decay = Decay.cosine
    warmup_steps: int = 10
    min_factor: float = 0.1
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(
                f"schedule.warmup_steps={self.warmup_steps}; use 0 or a positive number of steps"
            )
        if not 0 <= self.min_factor <= 1:
            raise ConfigError(
                f"schedule.min_factor={self.min_factor}; use a fraction of the learning rate, 0 to 1"
            )
        if not 0 < self.decay_fraction <= 1:
            raise ConfigError(
                f"schedule.decay_fraction={self.decay_fraction}; use a fraction of the steps above 0, at "
                "most 1"
            )


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """What every optimiser has. A run names one of its kinds below (``optim=adamw`` or ``optim=muon``)."""

    name: str = MISSING
    lr: float = MISSING
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.lr != MISSING and self.lr <= 0:
            raise ConfigError(f"optim.lr={self.lr}; use a positive learning rate")
        if self.weight_decay < 0:
            raise ConfigError(f"optim.weight_decay={self.weight_decay}; use 0 or a positive number")


@dataclass(kw_only=True, slots=True)
class AdamWConfig(OptimConfig):
    """AdamW (Loshchilov and Hutter 2019). Norms, biases and embeddings are not decayed."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


@dataclass(kw_only=True, slots=True)
class AdamW8bitConfig(AdamWConfig):
    """AdamW with moments of 8 bits (Dettmers et al. 2022): 2 bytes a parameter instead of 8, and 8 bytes a
    block of ``block_size``. Parameters of fewer than ``min_size`` numbers keep float32 moments.
    """

    name: str = "adamw8bit"
    block_size: int = 256
    min_size: int = 4096

    def __post_init__(self) -> None:
        AdamWConfig.__post_init__(self)
        for name in ("block_size", "min_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"optim.{name}={getattr(self, name)}; use at least 1")


@dataclass(kw_only=True, slots=True)
class MuonConfig(OptimConfig):
    """Muon for hidden matrices (Jordan 2024), AdamW for the rest at ``adamw_lr``.

    ``iteration_dtype`` is the format of Newton-Schulz: bf16 as published, or fp32, in which rounding does not
    grow, to compare two kinds of hardware or of kernels.
    """

    name: str = "muon"
    lr: float = 0.02
    weight_decay: float = 0.0
    momentum: float = 0.95
    adamw_lr: float = 2e-3
    iteration_dtype: Dtype = Dtype.bf16
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """``every_steps=0`` saves at the end only; the ``keep`` newest stay.

    With ``create_seed`` a run writes a checkpoint of step 0 and trains nothing. A run that has no checkpoint
    of its own starts from the weights in ``initial_load_path``, in any layout: a checkpoint, or with
    ``initial_load_in_hf`` a model folder with safetensors files. (The last state of a stage is always written
    as such a folder too.)
    """

    every_steps: int = 50
    keep: int = 2
    create_seed: bool = False
    initial_load_path: str = ""
    initial_load_in_hf: bool = False

    def __post_init__(self) -> None:
        if self.every_steps < 0:
            raise ConfigError(f"checkpoint.every_steps={self.every_steps}; use 0 (at the end only) or more")
        if self.keep < 1:
            raise ConfigError(
                f"checkpoint.keep={self.keep}; at least 1 must stay, or there is nothing to resume from"
            )
        if self.initial_load_in_hf and not self.initial_load_path:
            raise ConfigError(
                "checkpoint.initial_load_in_hf=true needs checkpoint.initial_load_path=PATH of a model folder"
            )


@dataclass(kw_only=True, slots=True)
class RollbackConfig:
    """What to do when a step goes wrong: go back to the last checkpoint and leave out all samples since it.

    Wrong is a loss that is not finite, or one above the mean of the last ``window`` losses by more than
    ``spike_stds`` of their standard deviations (0: only the first). It may happen ``max_times`` in a run;
    with 0 the run ends instead. Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1.
    """

    max_times: int = 0
    window: int = 50
    spike_stds: float = 6.0

    def __post_init__(self) -> None:
        for name, value in (("max_times", self.max_times), ("spike_stds", self.spike_stds)):
            if value < 0:
                raise ConfigError(f"rollback.{name}={value}; use 0 to switch it off, or a positive number")
        if self.window < 2:
            raise ConfigError(f"rollback.window={self.window}; a deviation needs at least 2 losses")


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """The loop of one run. ``max_grad_norm=0`` switches clipping off."""

    steps: int = 1000
    max_grad_norm: float = 1.0
    log_every_steps: int = 1
    eval_every_steps: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    rollback: RollbackConfig = field(default_factory=RollbackConfig)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}; use at least 1")
        if self.log_every_steps < 1:
            raise ConfigError(f"log_every_steps={self.log_every_steps}; use at least 1")
        for name, value in (
            ("max_grad_norm", self.max_grad_norm),
            ("eval_every_steps", self.eval_every_steps),
        ):
            if value < 0:
                raise ConfigError(f"{name}={value}; use 0 to switch it off, or a positive number")
