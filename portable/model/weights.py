"""Model folders: Hugging Face's files, ours inside. Streamed, so that loading needs one model's memory and
one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from portable.core.errors import ArtefactError
from portable.core.storage import atomic_path, explain_os_errors, read_json, write_json
from portable.kernel.registry import KernelSet
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.hf_config import from_hf_config, to_hf_config
from portable.model.init import empty_model
from portable.model.tokenizer import Tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
MAX_SHARD_BYTES = 5 * 10**9

_HF_NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "input_norm": "input_layernorm",
    "post_norm": "post_attention_layernorm",
}
_OUR_NAME = re.compile(r"(?:blocks\.(?P<layer>\d+)\.)?(?P<part>.+)\.weight")


def hf_name(name: str) -> str:
    """Return Hugging Face's name of our parameter, e.g. ``blocks.0.mlp.up.weight``."""
    match = _OUR_NAME.fullmatch(name)
    if match is None or match["part"] not in _HF_NAMES:
        raise ArtefactError(
            f"the parameter '{name}' is not one of a decoder; save the model without its wrappers"
        )
    block = "" if match["layer"] is None else f"model.layers.{match['layer']}."
    return f"{block}{_HF_NAMES[match['part']]}.weight"


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
    if tokenizer.vocab_size > config.vocab_size:
        raise ArtefactError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size is only "
            f"{config.vocab_size}; use the tokenizer that the model was trained with"
        )
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors = {hf_name(name): tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    with explain_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        for stale in [*path.glob("model*.safetensors"), path / INDEX]:
            stale.unlink(missing_ok=True)
    dtype = str(tensors["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    write_json(path / "config.json", to_hf_config(config, tokenizer, dtype))
    write_json(path / "generation_config.json", _generation_config(tokenizer))
    tokenizer.save(path)
    _write_shards(tensors, path, max_shard_bytes)


def load_model(
    path: Path,
    kernels: KernelSet,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Decoder, ModelConfig]:
    """Read a Llama or Qwen3 folder, ours or anyone's, whose files may be sharded.

    Raises: ArtefactError for a folder that is none, a setting whose formulas we do not have, or a tensor that
    is missing, superfluous or of the wrong shape.
    """
    config = read_config(path)
    model = empty_model(config, kernels, dtype=dtype, device=device)
    missing = {hf_name(name): parameter for name, parameter in model.named_parameters()}
    tied_copy = None
    for name, tensor in _read_tensors(path):
        if config.tie_embeddings and name == "lm_head.weight":
            tied_copy = tensor  # some writers store the tied matrix twice
            continue
        if name.endswith("rotary_emb.inv_freq"):
            continue  # computed from the config; files of 2023 still carry it
        parameter = missing.pop(name, None)
        if parameter is None:
            raise ArtefactError(f"{path} holds the tensor '{name}', for which its config.json has no place")
        _fill(parameter, tensor, f"{path}: '{name}'")
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise ArtefactError(
            f"{path} lacks {len(missing)} tensors, e.g. {some}; its download or writing is incomplete"
        )
    if tied_copy is not None and not torch.equal(tied_copy.to(device, dtype), model.embed.weight):
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
    return from_hf_config(read_json(file), str(file))


def weight_files(path: Path) -> list[str]:
    """Return the names of the files that hold a folder's weights, the index included."""
    if (path / INDEX).is_file():
        return [INDEX, *sorted(set(read_json(path / INDEX)["weight_map"].values()))]
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    raise ArtefactError(
        f"{path} holds no {WEIGHTS} and no {INDEX}; weights are read from safetensors files only"
    )


def _read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(path):
        if file == INDEX:
            continue
        if not (path / file).is_file():
            raise ArtefactError(f"{path} lacks '{file}', which its {INDEX} names; the download is incomplete")
        try:
            with safe_open(path / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise ArtefactError(f"{path / file} is damaged ({error}); write or fetch it again") from error


def _fill(parameter: Tensor, tensor: Tensor, what: str) -> None:
    if tensor.shape != parameter.shape:
        raise ArtefactError(
            f"{what} has shape {tuple(tensor.shape)}, but config.json makes it {tuple(parameter.shape)}; "
            "the files do not belong together"
        )
    with torch.no_grad():
        parameter.copy_(tensor)


def _write_shards(tensors: Mapping[str, Tensor], path: Path, max_shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name in sorted(tensors):
        if shards[-1] and size + tensors[name].nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += tensors[name].nbytes
    count = len(shards)
    names = (
        [WEIGHTS] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    )
    for shard, name in zip(shards, names, strict=True):
        with atomic_path(path / name) as temporary:
            save_file(shard, temporary, metadata={"format": "pt"})
    if count > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
        write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _generation_config(tokenizer: Tokenizer) -> dict[str, int | list[int] | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(tokenizer.stop_token_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
