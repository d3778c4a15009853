"""Settings of the pretraining stage."""

from dataclasses import dataclass, field
from enum import Enum

from portable.core.errors import ConfigError
from portable.data.mixture.config import CorpusConfig, check_mixture
from portable.model.config import ModelConfig
from portable.train.config import TrainConfig


class ModelSource(Enum):
    """Whose code computes the model of ``model_path``."""

    auto = "auto"  # ours where we have its formulas
    portable = "portable"
    transformers = "transformers"


@dataclass(kw_only=True, slots=True)
class PretrainConfig(TrainConfig):
    """One pretraining run on the corpus ``data``, or on a ``mixture`` of several in its place.

    A step takes ``global_batch_size`` windows of ``seq_len`` tokens, over all processes; each process reads
    them ``micro_batch_size`` at a time. With ``document_mask`` attention stays inside documents.
    ``z_loss`` times the square of the log of the softmax's denominator is added to the loss of every token
    (Chowdhery et al. 2022, arXiv:2204.02311, section 5). ``prefetch_batches`` steps are read ahead in
    a thread (0: none). ``eval_documents`` bounds the held-out documents, of each corpus, of the evaluations
    on the way (0: all); the last one always takes all.

    ``model_path`` continues from a model folder: its weights, and its shape in place of ``model``.
    """

    data: str = ""
    mixture: list[CorpusConfig] = field(default_factory=list)
    model: ModelConfig = field(default_factory=ModelConfig)
    model_path: str = ""
    model_source: ModelSource = ModelSource.auto
    seq_len: int = 256
    micro_batch_size: int = 8
    global_batch_size: int = 8
    document_mask: bool = True
    seed: int = 0
    prefetch_batches: int = 2
    z_loss: float = 0.0
    eval_documents: int = 200
    eval_batch_tokens: int = 16_384

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        for name in ("seq_len", "micro_batch_size", "global_batch_size", "eval_batch_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"pretrain.{name}={value}; use at least 1")
        if self.z_loss < 0:
            raise ConfigError(f"pretrain.z_loss={self.z_loss}; use 0 to switch it off, or e.g. 1e-4")
        for name, zero in (("eval_documents", "for all"), ("prefetch_batches", "to read in the step")):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"pretrain.{name}={getattr(self, name)}; use 0 {zero}, or a positive number"
                )
        if self.data and self.mixture:
            raise ConfigError(
                f"pretrain.data={self.data} and a pretrain.mixture of {len(self.mixture)} corpora are both "
                "set; use one of them"
            )
        check_mixture(self.mixture)
        if not self.model_path and self.seq_len > self.model.max_seq_len:
            raise ConfigError(
                f"pretrain.seq_len={self.seq_len} is longer than model.max_seq_len={self.model.max_seq_len}; "
                f"use seq_len of at most {self.model.max_seq_len}, or raise model.max_seq_len"
            )
        self.grad_accum_steps(1)

    @property
    def corpora(self) -> list[str]:
        """The folders of all corpora."""
        return [corpus.data for corpus in self.mixture] or [self.data]

    def grad_accum_steps(self, world_size: int) -> int:
        """Return the micro-batches that each of ``world_size`` processes reads per step.

        Raises: ConfigError, with the legal values, if the batch cannot be dealt out evenly.
        """
        per_pass = self.micro_batch_size * world_size
        if self.global_batch_size % per_pass:
            below = self.global_batch_size // per_pass * per_pass
            near = [str(value) for value in (below, below + per_pass) if value]
            share, rest = divmod(self.global_batch_size, world_size)
            micro = [str(n) for n in range(1, share + 1) if share % n == 0] if not rest else []
            remedy = f", or micro_batch_size={' or '.join(micro)}" if micro else ""
            raise ConfigError(
                f"pretrain.global_batch_size={self.global_batch_size} is not a multiple of micro_batch_size "
                f"× processes = {self.micro_batch_size} × {world_size}; use "
                f"global_batch_size={' or '.join(near)}{remedy}"
            )
        return self.global_batch_size // per_pass
