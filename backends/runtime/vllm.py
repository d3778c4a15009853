"""vLLM in this process, behind our ``Engine`` Protocol. Written against vLLM 0.32.

Log-probs are vLLM's ``processed_logprobs``: after temperature, as ours, but also after top-k and top-p. Where
a request cuts, they are those of the cut distribution; that is logged once.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backends.runtime.package import import_engine
from portable.core.errors import ConfigError
from portable.engine.config import EngineConfig, VllmEngineConfig
from portable.engine.request import Completion, Request, TokenStep
from portable.engine.sequence import check_fits, complete
from portable.model.tokenizer import Tokenizer
from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_MAX_TOP = 20


class VllmEngine:
    """``vllm`` is the imported package: its types are not known where it is not installed, hence Any."""

    def __init__(self, vllm: Any, llm: Any, tokenizer: Tokenizer) -> None:
        self._vllm = vllm
        self._llm = llm
        self._tokenizer = tokenizer
        self._ids = itertools.count()
        self._warned = False

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def max_seq_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, in order. Raises: DataError if a prompt does not fit."""
        params = [self._params(request) for request in requests]
        outputs = self._llm.generate([_prompt(item) for item in requests], params, use_tqdm=False)
        return [
            complete(self.tokenizer, request, _steps(output.outputs[0]), output.outputs[0].finish_reason)
            for request, output in zip(requests, outputs, strict=True)
        ]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        """Answer one request token by token. Raises: DataError if the prompt does not fit."""
        return self._stream(request, self._params(request))

    def _stream(self, request: Request, params: Any) -> Iterator[TokenStep]:
        engine, name = self._llm.llm_engine, f"stream-{next(self._ids)}"
        engine.add_request(name, _prompt(request), params)
        num_told = 0
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.request_id != name:
                        continue
                    steps = _steps(output.outputs[0])
                    yield from steps[num_told:]
                    num_told = len(steps)
        finally:
            engine.abort_request([name])

    def _params(self, request: Request) -> Any:
        vocab_size = int(self._llm.llm_engine.model_config.get_vocab_size())
        room = check_fits(request, self.max_seq_len, vocab_size)
        sampling = request.sampling
        if sampling.temperature > 0 and (sampling.top_k or sampling.top_p < 1) and not self._warned:
            self._warned = True
            logger.warning("engine=vllm reports log-probs after top_k and top_p, other engines before them")
        return self._vllm.SamplingParams(
            max_tokens=min(sampling.max_new_tokens, room),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(request.stop),
            stop_token_ids=list(request.stop_token_ids),
            ignore_eos=True,  # the request says what ends it, not the folder's generation_config.json
            logprobs=min(request.num_top_log_probs, _MAX_TOP),
        )


def _prompt(request: Request) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(request.prompt_ids)}


def _steps(output: Any) -> list[TokenStep]:  # Any: vllm.CompletionOutput
    steps: list[TokenStep] = []
    for token, entries in zip(output.token_ids, output.logprobs, strict=True):
        best = sorted(((index, entry.logprob) for index, entry in entries.items()), key=lambda item: -item[1])
        steps.append(TokenStep(int(token), float(entries[token].logprob), tuple(best)))
    return steps


def build(model_dir: Path, config: EngineConfig, runtime: Runtime) -> VllmEngine:
    """Load a model folder into vLLM.

    Raises: BackendUnavailable if vLLM is not installed or cannot be imported.
    """
    if not isinstance(config, VllmEngineConfig):
        raise ConfigError(
            f"engine={config.name} was given {type(config).__name__}; it needs VllmEngineConfig"
        )
    vllm = import_engine("vllm", "vllm")
    llm = vllm.LLM(
        model=str(model_dir),
        dtype=_DTYPES[runtime.precision.compute_dtype.name],
        tensor_parallel_size=config.tensor_parallel_size,
        gpu_memory_utilization=config.memory_fraction,
        max_num_seqs=config.max_batch_size,
        max_logprobs=_MAX_TOP,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",  # no sampling defaults from the folder
    )
    return VllmEngine(vllm, llm, Tokenizer.load(model_dir))
