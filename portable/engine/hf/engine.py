"""Any causal model that ``transformers`` knows, through its own ``generate``.

Tokens are drawn by our sampler, plugged in as a logits processor that leaves one token possible; stopping
is decided row by row, by a stopping criterion. So one call serves requests with different settings, and
log-probs, seeds and stops mean the same as with the native engine.

Shapes: N requests, T tokens, V vocabulary.
"""

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.stopping_criteria import StoppingCriteria

from portable.core.errors import ArtefactError, CapabilityError, ConfigError
from portable.engine.config import EngineConfig, HfEngineConfig
from portable.engine.hf.device_map import let_host_read, make_device_map
from portable.engine.native.sampler import SamplingRows, draw
from portable.engine.request import Completion, Request, TokenStep
from portable.engine.sequence import Sequence as Running
from portable.engine.sequence import check_fits
from portable.model.tokenizer import Tokenizer
from portable.parallel.runtime import Runtime


class HfEngine:
    """``model`` is a ``transformers`` causal model; it answers ``max_batch_size`` requests at a time."""

    # Any: transformers' model classes share no typed base that has both generate and config
    def __init__(self, model: Any, tokenizer: Tokenizer, config: HfEngineConfig, runtime: Runtime) -> None:
        self.model = model.eval()
        # The folder's own settings (penalties, cuts) would change the distribution behind the request's back.
        self.model.generation_config = GenerationConfig()
        self.config = config
        self.runtime = runtime
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def max_seq_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, in order. Raises: DataError if a prompt does not fit."""
        sequences = [self._sequence(key, request) for key, request in enumerate(requests)]
        # Equal lengths next to each other: less padding. The order of answers does not change.
        by_length = sorted(sequences, key=lambda item: len(item.request.prompt_ids))
        for start in range(0, len(by_length), self.config.max_batch_size):
            self._run(by_length[start : start + self.config.max_batch_size], _ignore, threading.Event())
        return [sequence.completion() for sequence in sequences]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        """Answer one request token by token. Raises: DataError if the prompt does not fit."""
        return self._stream(self._sequence(0, request))

    def _stream(self, sequence: Running) -> Iterator[TokenStep]:
        news: queue.Queue[TokenStep | None] = queue.Queue()
        cancelled = threading.Event()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf-generate") as pool:
            running = pool.submit(self._run, [sequence], news.put, cancelled)
            running.add_done_callback(lambda _: news.put(None))
            try:
                while (step := news.get()) is not None:
                    yield step
                running.result()  # raises here what went wrong there
            finally:
                cancelled.set()

    def _sequence(self, key: int, request: Request) -> Running:
        vocab_size = int(self.model.config.get_text_config().vocab_size)
        room = check_fits(request, self.max_seq_len, vocab_size)
        limit = min(request.sampling.max_new_tokens, room)
        return Running(key, request, self.tokenizer, limit, watch_text=False)

    def _run(
        self, sequences: Sequence[Running], tell: Callable[[TokenStep], None], cancelled: threading.Event
    ) -> None:
        device = self.runtime.torch_device
        width = max(len(item.request.prompt_ids) for item in sequences)
        ids_NT = torch.full((len(sequences), width), self.tokenizer.pad_token_id)
        mask_NT = torch.zeros_like(ids_NT)
        for row, item in enumerate(sequences):  # left padding: the newest token is the last of every row
            prompt = item.request.prompt_ids
            ids_NT[row, width - len(prompt) :] = torch.tensor(prompt)
            mask_NT[row, width - len(prompt) :] = 1
        settings = GenerationConfig(
            max_new_tokens=max(item.max_new_tokens for item in sequences),
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.no_grad(), self.runtime.device.autocast(self.runtime.precision.compute_dtype):
            self.model.generate(
                input_ids=ids_NT.to(device),
                attention_mask=mask_NT.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Draw(sequences, tell)]),
                stopping_criteria=StoppingCriteriaList([_Stop(sequences, cancelled)]),
            )


class _Draw(LogitsProcessor):
    """Draw a token for each running row and make it the only possible one."""

    def __init__(self, sequences: Sequence[Running], tell: Callable[[TokenStep], None]) -> None:
        self._sequences = sequences
        self._tell = tell

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        running = [row for row, item in enumerate(self._sequences) if item.finish_reason is None]
        if not running:  # an accelerator may check for the end one step late
            return scores
        sequences = [self._sequences[row] for row in running]
        rows = SamplingRows.of(
            [item.request for item in sequences], [len(item.steps) for item in sequences], scores.device
        )
        index = torch.tensor(running, device=scores.device)
        steps = draw(scores[index], rows)
        chosen = torch.tensor([step.token_id for step in steps], device=scores.device)
        scores[index] = -math.inf
        scores[index, chosen] = 0.0
        for sequence, step in zip(sequences, steps, strict=True):
            sequence.take(step)
            self._tell(sequence.steps[-1])
        return scores


class _Stop(StoppingCriteria):
    """Say which rows are done."""

    def __init__(self, sequences: Sequence[Running], cancelled: threading.Event) -> None:
        self._sequences = sequences
        self._cancelled = cancelled

    # Any: the base class declares it so
    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        done = [self._cancelled.is_set() or item.finish_reason is not None for item in self._sequences]
        return torch.tensor(done, device=input_ids.device)


def _ignore(step: TokenStep) -> None:
    """Do nothing: nobody follows the tokens."""


def build(model_dir: Path, config: EngineConfig, runtime: Runtime) -> HfEngine:
    """Load a model folder of any architecture that ``transformers`` knows and make its engine."""
    if not isinstance(config, HfEngineConfig):
        raise ConfigError(f"engine={config.name} was given {type(config).__name__}; it needs HfEngineConfig")
    if not (model_dir / "config.json").is_file():
        raise ArtefactError(f"{model_dir} holds no config.json; name a model folder in Hugging Face's form")
    load = _load_spread if config.device_map == "auto" else _load
    return HfEngine(load(model_dir, config, runtime), Tokenizer.load(model_dir), config, runtime)


# Any: the stub of Module.to does not fit the class that from_pretrained is said to return
def _load(model_dir: Path, config: HfEngineConfig, runtime: Runtime) -> Any:
    dtype = runtime.precision.param_dtype.torch()
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, local_files_only=True)
    return model.to(runtime.torch_device)


def _load_spread(model_dir: Path, config: HfEngineConfig, runtime: Runtime) -> Any:
    """Load every part to its place. What lies elsewhere is brought to the device while it computes.

    Raises: CapabilityError if parts are not where they were to be.
    """
    places = make_device_map(model_dir, config, runtime)
    if set(places.values()) == {str(runtime.torch_device)}:
        return _load(model_dir, config, runtime)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir,
        dtype=runtime.precision.param_dtype.torch(),
        local_files_only=True,
        device_map=places,
        offload_folder=config.offload_folder or None,
    )
    let_host_read(model)
    found = {name: str(place) for name, place in model.hf_device_map.items()}
    if found != places:
        raise CapabilityError(f"engine.device_map=auto: asked for {places}, but transformers made it {found}")
    return model
