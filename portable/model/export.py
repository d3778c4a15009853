"""The export stage: a model folder that the Hugging Face ecosystem loads, and the proof that it does."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor

from portable.core.artefact import Artefact, seal
from portable.core.errors import ArtefactError, ConfigError
from portable.core.record import Message
from portable.core.storage import read_json, write_text
from portable.core.workspace import Workspace
from portable.kernel.entry import REFERENCE_ENTRIES
from portable.kernel.registry import KernelSet
from portable.model.chat import render_prompt
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.model.export_config import ExportConfig, ExportDtype
from portable.model.flops import num_parameters
from portable.model.hf_config import ARCHITECTURES, architecture
from portable.model.tokenizer import Tokenizer
from portable.model.weights import MODEL_FILES, load_model, save_model, weight_files

logger = logging.getLogger(__name__)

CARD = "README.md"
_CHECK_LEN = 128
_CHECK_TEXTS = (
    "Return the sum of 12 and 345.\n\n    >>> 12 + 345\n    357\n",
    "naïve café, 你好, здравствуйте, \N{ROCKET}\t end ",
)
_CHECK_CHAT = (Message("system", "Be brief."), Message("user", "What does str.join do?"))
_TORCH_DTYPES = {
    ExportDtype.fp32: torch.float32,
    ExportDtype.bf16: torch.bfloat16,
    ExportDtype.fp16: torch.float16,
}


_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [portable-llm, {kind}]
---
# A {millions} model made with Portable

| | |
|---|---|
| Architecture | {architecture} |
| Parameters | {parameters:,} |
| Layers | {num_layers} |
| Hidden size | {hidden_size} |
| Feed-forward size | {intermediate_size} |
| Heads (queries / keys and values) | {num_heads} / {num_kv_heads}, {head_dim} wide |
| Vocabulary | {vocab_size:,} |
| Context | {max_seq_len} tokens |
| Weights | {dtype}, safetensors |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("The function returns", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
```

When this folder was written, transformers loaded it and its logits agreed with Portable's own within
{tolerance:g} in float32; the tokenizer and its chat template gave the same ids.
"""


def run_export(config: ExportConfig, workspace: Workspace) -> Artefact:
    """Write ``config.model_path`` into ``workspace.dir``, check it with transformers, and seal it.

    Raises: ArtefactError if the source is no model of ours, or if transformers computes something else.
    """
    source, target = Path(config.model_path), workspace.dir
    if source.resolve() == target.resolve():
        raise ConfigError(
            f"export.model_path={config.model_path} is also the output folder; name another output_dir"
        )
    dtype = _TORCH_DTYPES.get(config.dtype) or _stored_dtype(source)
    # The reference kernels are the meaning: what is compared with transformers is no machine's fast path.
    kernels = KernelSet("any", "fp32", entries=REFERENCE_ENTRIES)
    model, shape = load_model(source, kernels, dtype)
    _check_finite(model, config)
    tokenizer = Tokenizer.load(source)
    save_model(model, shape, tokenizer, target)
    difference = compare_logits(model.float(), target, config)
    check_tokenizer(tokenizer, target)
    dtype_name = str(dtype).removeprefix("torch.")
    write_text(target / CARD, model_card(shape, dtype_name, config.max_logit_difference))
    logger.info("exported %s; logits differ from transformers' by at most %.1e", target, difference)
    payload = [*MODEL_FILES, *weight_files(target), CARD]
    summary = {
        "parameters": num_parameters(shape),
        "max_logit_difference": difference,
        "dtype": dtype_name,
        "architecture": ARCHITECTURES[architecture(shape)],
    }
    return seal(target, "model", payload, summary)


def compare_logits(model: Decoder, path: Path, config: ExportConfig) -> float:
    """Return the largest difference of logits between ``model`` and transformers' reading of ``path``.

    Raises: ArtefactError if it is more than ``config.max_logit_difference``, or no number.
    """
    from transformers import AutoModelForCausalLM

    with _quiet_transformers():
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids_BT = _check_ids(model.config, config)
    positions_BT = torch.arange(ids_BT.shape[1]).expand_as(ids_BT)
    with torch.no_grad():
        difference = (theirs(ids_BT).logits - model.logits(model(ids_BT, positions_BT))).abs().max().item()
    if not difference <= config.max_logit_difference:  # a NaN must fail, too
        raise ArtefactError(
            f"the exported model in {path} gives logits in transformers that differ by {difference:.2e} from "
            f"ours, more than export.max_logit_difference={config.max_logit_difference}; do not use it, and "
            "report this"
        )
    return difference


def check_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Compare ids, the chat template's included, with those of transformers' tokenizer in ``path``.

    Raises: ArtefactError with the first text whose ids differ.
    """
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(path)
    for text in _CHECK_TEXTS:
        _expect_equal(tokenizer.encode(text), theirs.encode(text, add_special_tokens=False), repr(text), path)
    if tokenizer.chat_template is None:
        return
    turns = [{"role": message.role, "content": message.content} for message in _CHECK_CHAT]
    ids = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    _expect_equal(render_prompt(tokenizer, _CHECK_CHAT), ids, "a conversation", path)


def model_card(config: ModelConfig, dtype: str, tolerance: float) -> str:
    """Return the text of the card. It holds no times and no paths: equal models have equal cards."""
    kind = architecture(config)
    parameters = num_parameters(config)
    return _CARD.format(
        kind=kind,
        architecture=ARCHITECTURES[kind],
        millions=f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M",
        parameters=parameters,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_seq_len=config.max_seq_len,
        dtype=dtype,
        tolerance=tolerance,
    )


@contextlib.contextmanager
def _quiet_transformers() -> Generator[None, None, None]:
    """Hide the progress bar of a load that takes a moment."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _expect_equal(ours: list[int], theirs: list[int], what: str, path: Path) -> None:
    if ours != theirs:
        raise ArtefactError(
            f"the exported tokenizer in {path} reads {what} as {theirs[:12]} in transformers, but ours as "
            f"{ours[:12]}; do not use it, and report this"
        )


def _check_ids(shape: ModelConfig, config: ExportConfig) -> Tensor:
    stream = torch.Generator().manual_seed(config.seed)
    size = (config.num_check_sequences, min(_CHECK_LEN, shape.max_seq_len))
    return torch.randint(0, shape.vocab_size, size, generator=stream)


def _stored_dtype(source: Path) -> torch.dtype:
    """Return the format that the source's config.json states; float32 if it states none that we write."""
    hf = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    stated = str(hf.get("dtype") or hf.get("torch_dtype"))
    names = {str(dtype).removeprefix("torch."): dtype for dtype in _TORCH_DTYPES.values()}
    return names.get(stated, torch.float32)


def _check_finite(model: Decoder, config: ExportConfig) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ArtefactError(
                f"'{name}' of {config.model_path} holds values that are not finite as {config.dtype.name}; "
                "use export.dtype=bf16 or fp32, or look for the training step that broke it"
            )
