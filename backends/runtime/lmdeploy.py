"""LMDeploy's PyTorch engine in this process, behind our ``Engine`` Protocol. Written against LMDeploy 0.18.

Its log-probs are raw: before temperature. They agree with ours at temperature 0 and 1; other temperatures are
logged once.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backends.runtime.package import import_engine
from portable.core.errors import BackendUnavailable, ConfigError, PortableError
from portable.device.protocol import Dtype
from portable.engine.config import EngineConfig, LmdeployEngineConfig
from portable.engine.request import Completion, Request, TokenStep
from portable.engine.sequence import check_fits, complete
from portable.model.tokenizer import Tokenizer
from portable.model.weights import read_config
from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)
_DEVICE_TYPES = {"nvidia": "cuda", "huawei": "ascend"}
_DTYPES = {"fp32": "auto", "bf16": "bfloat16", "fp16": "float16"}  # the engine has no 32-bit arithmetic


class LmdeployEngine:
    """``lmdeploy`` is the imported package: its types are not known where it is not installed, hence Any."""

    def __init__(
        self, lmdeploy: Any, pipe: Any, tokenizer: Tokenizer, max_seq_len: int, vocab_size: int
    ) -> None:
        self._lmdeploy = lmdeploy
        self._pipe = pipe
        self._tokenizer = tokenizer
        self._max_seq_len = max_seq_len
        self._vocab_size = vocab_size
        self._warned = False

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def max_seq_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self._max_seq_len

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, in order. Raises: DataError if a prompt does not fit."""
        settings = [self._settings(request) for request in requests]
        # All are handed over first: the engine batches what it has.
        running = [self._submit(request, item) for request, item in zip(requests, settings, strict=True)]
        answers = [future.result() for future in running]
        return [
            complete(self.tokenizer, request, steps, finish_reason)
            for request, (steps, finish_reason) in zip(requests, answers, strict=True)
        ]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        """Answer one request; its tokens come together, when the last is known."""
        return iter(self.generate([request])[0].steps)

    def _submit(self, request: Request, settings: Any) -> Future[tuple[list[TokenStep], str | None]]:
        return asyncio.run_coroutine_threadsafe(
            self._collect(request, settings), self._pipe.internal_thread.loop
        )

    async def _collect(self, request: Request, settings: Any) -> tuple[list[TokenStep], str | None]:
        steps: list[TokenStep] = []
        finish_reason: str | None = None
        answer = self._pipe.async_engine.generate(
            messages=None,
            session_id=self._pipe.session(),
            input_ids=list(request.prompt_ids),
            gen_config=settings,
            stream_response=True,
            do_preprocess=False,  # the prompt is rendered and encoded already
        )
        async for part in answer:
            if part.finish_reason in ("error", "abort"):
                raise PortableError(f"LMDeploy ended a request with '{part.finish_reason}': {part.response}")
            steps += _steps(part)
            finish_reason = part.finish_reason or finish_reason
        return steps, finish_reason

    def _settings(self, request: Request) -> Any:
        room = check_fits(request, self.max_seq_len, self._vocab_size)
        sampling = request.sampling
        if sampling.temperature not in (0.0, 1.0) and not self._warned:
            self._warned = True
            logger.warning(
                "engine=lmdeploy reports log-probs at temperature 1, other engines at the request's"
            )
        return self._lmdeploy.GenerationConfig(
            max_new_tokens=min(sampling.max_new_tokens, room),
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            random_seed=sampling.seed,
            # Stop strings are ours to cut: LMDeploy turns them into whole tokens and would end too early.
            stop_token_ids=list(request.stop_token_ids),
            include_stop_str_in_output=True,  # keeps the stop token's id
            skip_special_tokens=False,
            logprobs=max(request.num_top_log_probs, 1),
        )


def _steps(part: Any) -> list[TokenStep]:  # Any: lmdeploy's GenOut
    tokens = part.token_ids or []
    entries = part.logprobs or []
    if len(entries) != len(tokens):
        raise PortableError(
            f"LMDeploy returned {len(entries)} log-probs for {len(tokens)} tokens; use another engine"
        )
    return [
        TokenStep(token, found[token], tuple(sorted(found.items(), key=lambda item: -item[1])))
        for token, found in zip(tokens, entries, strict=True)
    ]


def build(model_dir: Path, config: EngineConfig, runtime: Runtime) -> LmdeployEngine:
    """Load a model folder into LMDeploy.

    Raises: BackendUnavailable if LMDeploy is not installed, cannot be imported, or does not know this device.
    """
    if not isinstance(config, LmdeployEngineConfig):
        raise ConfigError(
            f"engine={config.name} was given {type(config).__name__}; it needs LmdeployEngineConfig"
        )
    device_type = _DEVICE_TYPES.get(runtime.device.vendor)
    if device_type is None:
        raise BackendUnavailable(
            f"engine=lmdeploy does not run on devices of '{runtime.device.vendor}', only of "
            f"{', '.join(_DEVICE_TYPES)}; use engine=native or engine=hf"
        )
    lmdeploy = import_engine("lmdeploy", "lmdeploy")
    if runtime.precision.compute_dtype is Dtype.fp32:
        logger.warning("engine=lmdeploy computes in 16 bits, not in fp32")
    model = read_config(model_dir)
    settings = lmdeploy.PytorchEngineConfig(
        dtype=_DTYPES[runtime.precision.compute_dtype.name],
        tp=config.tensor_parallel_size,
        session_len=model.max_seq_len,
        max_batch_size=config.max_batch_size,
        cache_max_entry_count=config.memory_fraction,
        device_type=device_type,
        logprobs_mode="raw_logprobs",
    )
    pipe = lmdeploy.pipeline(str(model_dir), backend_config=settings)
    return LmdeployEngine(lmdeploy, pipe, Tokenizer.load(model_dir), model.max_seq_len, model.vocab_size)
