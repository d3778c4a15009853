"""What pretraining begins with: a fresh decoder, or the model of a folder, ours or of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from portable.core.errors import ArtefactError
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.flops import train_flops_per_token
from portable.model.head import HeadedModel
from portable.model.hf.folder import empty_hf
from portable.model.hf_config import architecture
from portable.model.init import initial_value
from portable.model.tokenizer import Tokenizer
from portable.model.weights import read_config
from portable.parallel.check import check_layout
from portable.parallel.config import ParallelConfig
from portable.parallel.placement import Extent
from portable.parallel.spread import Fill
from portable.parallel.spread_model import SpreadModel
from portable.train.checkpoint.export import export_hf, export_model
from portable.train.checkpoint.initial import hf_fill
from portable.train.pretrain_config import ModelSource, PretrainConfig


class InitialModel(Protocol):
    """A model on the meta device, what fills it, and what a run must know of it."""

    module: HeadedModel
    fill: Fill
    vocab_size: int
    max_seq_len: int | None  # None where nobody says

    def check(self, config: ParallelConfig, *, seq_len: int, num_micro_batches: int) -> None:
        """Raise ConfigError if the model cannot be divided so, as far as can be told by now."""
        ...

    def flops_per_token(self, seq_len: int) -> float | None:
        """Return the model's FLOPs per trained token, None if nobody counts them."""
        ...

    def export(self, model: SpreadModel, tokenizer: Tokenizer, path: Path) -> int:
        """Write the trained model; return the number of parameters. All ranks must call."""
        ...


def initial_model(config: PretrainConfig, kernels: KernelSet) -> InitialModel:
    """Return what ``config`` names.

    Raises: ArtefactError if ``config.model_path`` holds no model that can be trained.
    """
    if not config.model_path:
        return OwnModel(config.model, kernels, config.seed)
    path = Path(config.model_path)
    if config.model_source is ModelSource.transformers:
        return ForeignModel(path, kernels)
    try:
        shape = read_config(path)
    except ArtefactError:
        if config.model_source is ModelSource.portable:
            raise
        return ForeignModel(path, kernels)
    return OwnModel(shape, kernels, config.seed, path)


class OwnModel:
    """A decoder of ours, fresh or with the weights of the folder ``path``."""

    def __init__(self, shape: ModelConfig, kernels: KernelSet, seed: int, path: Path | None = None) -> None:
        architecture(shape)  # a shape that no folder can name would fail only when it is saved
        self.shape = shape
        self.vocab_size: int = shape.vocab_size
        self.max_seq_len: int | None = shape.max_seq_len
        with torch.device("meta"):  # each rank draws or reads its own part of the weights only
            self.module: HeadedModel = Decoder(shape, kernels)

        def fresh(name: str, whole: tuple[int, ...], extent: Extent) -> Tensor:
            return extent.of(initial_value(shape, name, whole, seed))

        self.fill: Fill = fresh if path is None else hf_fill(path)

    def check(self, config: ParallelConfig, *, seq_len: int, num_micro_batches: int) -> None:
        """See ``check_layout``."""
        check_layout(config, self.shape, seq_len=seq_len, num_micro_batches=num_micro_batches)

    def flops_per_token(self, seq_len: int) -> float | None:
        """See ``train_flops_per_token``."""
        return train_flops_per_token(self.shape, seq_len)

    def export(self, model: SpreadModel, tokenizer: Tokenizer, path: Path) -> int:
        """See ``export_model``."""
        return export_model(model, self.shape, tokenizer, path)


class ForeignModel:
    """A model of transformers, whose own code computes."""

    def __init__(self, path: Path, kernels: KernelSet) -> None:
        module, weights = empty_hf(path, kernels)
        self.module: HeadedModel = module
        self.fill: Fill = weights
        self.vocab_size: int = module.settings.vocab_size
        self.max_seq_len: int | None = module.settings.max_seq_len
        self._names = weights.names

    def check(self, config: ParallelConfig, *, seq_len: int, num_micro_batches: int) -> None:
        """Do nothing yet: spreading the model checks all, before it cuts anything."""

    def flops_per_token(self, seq_len: int) -> float | None:
        """Return None: code that is not ours is not counted."""
        return None

    def export(self, model: SpreadModel, tokenizer: Tokenizer, path: Path) -> int:
        """See ``export_hf``."""
        return export_hf(model, self._names, tokenizer, path)
