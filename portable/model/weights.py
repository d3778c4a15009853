"""Model folders: Hugging Face's files, ours inside. Streamed, so that loading needs one model's memory and
one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from portable.core.errors import ArtefactError
from portable.core.storage import explain_os_errors, read_json, write_json
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.hf_config import from_hf_config, to_hf_config
from portable.model.hf_names import hf_name, hf_parts, plain_name
from portable.model.init import empty_model
from portable.model.tokenizer import Tokenizer
from portable.model.weight_stream import (
    INDEX,
    MAX_SHARD_BYTES,
    WEIGHTS,
    Fact,
    StoredWeights,
    weight_files,
    write_weights,
)

MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")

# What files carry beside the weights: frequencies, computed from the config (files of 2023), and copies of
# embedding and head beside each depth of multi-token prediction (DeepSeek-V3).
_COPIES = re.compile(r".*rotary_emb\.inv_freq|model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight")
# How transformers keeps experts in memory, and may write them: gate and up in one, and all experts stacked.
_FUSED = re.compile(r"(?P<stem>model\.layers\.\d+\.mlp\.)experts\.(?P<matrix>gate_up|down)_proj")


def save_model(
    model: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer: Tokenizer,
    path: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model folder that ``transformers`` loads as it stands.

    ``model`` is a Decoder, or the full state dict of a sharded one. Weights keep their number format.

    Raises: ArtefactError if the tokenizer has more tokens than the model, StorageError if the disk refuses.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    facts = {name: Fact(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
    save_stream(facts, state.items(), config, tokenizer, path, max_shard_bytes=max_shard_bytes)


def save_stream(
    facts: Mapping[str, Fact],
    weights: Iterable[tuple[str, Tensor]],
    config: ModelConfig,
    tokenizer: Tokenizer,
    path: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a model folder from ``weights`` that ``facts`` announces and that come one at a time, in any
    order; the rest is as for ``save_model``.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ArtefactError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size is only "
            f"{config.vocab_size}; use the tokenizer that the model was trained with"
        )
    outside = {
        theirs: fact if index is None else Fact(fact.shape[1:], fact.dtype)
        for name, fact in facts.items()
        for theirs, index in hf_parts(name, fact.shape[0], config).items()
    }
    with explain_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for stale in [*path.glob("model*.safetensors"), path / INDEX]:
            stale.unlink(missing_ok=True)
    dtype = str(outside["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    write_json(path / "config.json", to_hf_config(config, tokenizer, dtype))
    write_json(path / "generation_config.json", _generation_config(tokenizer))
    tokenizer.save(path)
    tensors = (
        (theirs, tensor if index is None else tensor[index])
        for name, tensor in weights
        for theirs, index in hf_parts(name, len(tensor), config).items()
    )
    write_weights(outside, tensors, path, max_shard_bytes=max_shard_bytes)


def load_model(
    path: Path,
    kernels: KernelSet,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Decoder, ModelConfig]:
    """Read a folder, ours or anyone's, of an architecture that we have; its files may be sharded.

    Raises: ArtefactError for a folder that is none, a setting whose formulas we do not have, or a tensor that
    is missing, superfluous or of the wrong shape.
    """
    config = read_config(path)
    model = empty_model(config, kernels, dtype=dtype, device=device)
    missing = {
        plain_name(theirs): value if index is None else value[index]
        for name, value in (*model.named_parameters(), *model.named_buffers())
        for theirs, index in hf_parts(name, len(value), config).items()
    }
    tied_copy = None
    for name, tensor in _read_tensors(path):
        if config.tie_embeddings and name == "lm_head.weight":
            tied_copy = tensor  # some writers store the tied matrix twice
            continue
        if _COPIES.fullmatch(name):
            continue
        parameter = missing.pop(plain_name(name), None)
        if parameter is None:
            raise ArtefactError(f"{path} holds the tensor '{name}', for which its config.json has no place")
        _fill(parameter, tensor, f"{path}: '{name}'")
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise ArtefactError(
            f"{path} lacks {len(missing)} tensors, e.g. {some}; its download or writing is incomplete"
        )
    if tied_copy is not None and not torch.equal(tied_copy.to(device, dtype), model.head_weight_VD):
        raise ArtefactError(
            f"{path}: tie_word_embeddings=true, but lm_head.weight differs from model.embed_tokens.weight; "
            "set it to false in config.json if the head is meant"
        )
    return model, config


def read_config(path: Path) -> ModelConfig:
    """Read the shape of the model in a folder. Raises: ArtefactError if it holds none that we know."""
    file = path / "config.json"
    if not file.is_file():
        raise ArtefactError(
            f"{path} holds no config.json; name a folder that pretrain, sft, rl or export wrote"
        )
    config = from_hf_config(read_json(file), str(file))
    if config.mtp is not None and not _holds_depths(path, config):
        return replace(config, mtp=None)  # transformers keeps the number when it drops the weights
    return config


def read_box(
    stored: StoredWeights, config: ModelConfig, name: str, offset: Sequence[int], shape: Sequence[int]
) -> Tensor:
    """Return the box at ``offset`` of our parameter ``name`` from a folder's files, reading no other bytes.

    Raises: ArtefactError if a tensor of it is missing.
    """
    boxes: list[Tensor] = []
    wanted = range(offset[0], offset[0] + shape[0]) if shape else range(1)
    for theirs, index in hf_parts(name, wanted.stop, config).items():
        if index is not None and index not in wanted:
            continue
        if theirs not in stored.shapes:
            raise ArtefactError(f"{stored.path} lacks the tensor '{theirs}', which '{name}' is made of")
        if index is None:
            return stored.box(theirs, offset, shape)
        boxes.append(stored.box(theirs, offset[1:], shape[1:]))
    return torch.stack(boxes) if boxes else torch.empty(*shape)


def stored_shape(
    stored: StoredWeights, config: ModelConfig, name: str, length: int
) -> tuple[int, ...] | None:
    """Return the whole shape of our parameter in a folder's files, or None if it is missing.

    ``length`` is that of its first dim, which counts tensors where each expert has one.
    """
    parts = hf_parts(name, length, config)
    shapes = {stored.shapes.get(theirs) for theirs in parts}
    if len(shapes) != 1:
        return None
    (shape,) = shapes
    return shape if shape is None or None in parts.values() else (len(parts), *shape)


def _holds_depths(path: Path, config: ModelConfig) -> bool:
    if not ((path / INDEX).is_file() or (path / WEIGHTS).is_file()):
        return True
    return hf_name("mtp.0.projection.weight", config) in StoredWeights(path).shapes


def _read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(path):
        if file == INDEX:
            continue
        if not (path / file).is_file():
            raise ArtefactError(f"{path} lacks '{file}', which its {INDEX} names; the download is incomplete")
        try:
            with safe_open(path / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    yield from _apart(name, opened.get_tensor(name))
        except SafetensorError as error:
            raise ArtefactError(f"{path / file} is damaged ({error}); write or fetch it again") from error


def _apart(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Divide a tensor of all experts into theirs."""
    match = _FUSED.fullmatch(name)
    if match is None:
        yield name, tensor
        return
    matrices = {"gate_up": ("gate", "up"), "down": ("down",)}[match["matrix"]]
    for matrix, part in zip(matrices, tensor.chunk(len(matrices), 1), strict=True):
        for index, expert in enumerate(part):
            yield f"{match['stem']}experts.{index}.{matrix}_proj.weight", expert


def _fill(parameter: Tensor, tensor: Tensor, what: str) -> None:
    if tensor.shape != parameter.shape:
        raise ArtefactError(
            f"{what} has shape {tuple(tensor.shape)}, but config.json makes it {tuple(parameter.shape)}; "
            "the files do not belong together"
        )
    with torch.no_grad():
        parameter.copy_(tensor)


def _generation_config(tokenizer: Tokenizer) -> dict[str, int | list[int] | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(tokenizer.stop_token_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
