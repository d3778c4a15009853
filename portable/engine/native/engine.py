"""Our own engine: the model of the trainer, as it is, without a copy of its weights."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from portable.core.errors import ConfigError
from portable.engine.config import EngineConfig, NativeEngineConfig
from portable.engine.native.scheduler import NativeSession, Scheduler
from portable.engine.request import Completion, Request, TokenStep
from portable.engine.sequence import Sequence as Running
from portable.engine.sequence import check_fits
from portable.model.decoder import Decoder
from portable.model.tokenizer import Tokenizer
from portable.model.weights import load_model
from portable.parallel.runtime import Runtime


class NativeEngine:
    """Generates with ``model`` in place: an optimiser step is seen by the next call, at no cost."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, config: NativeEngineConfig, runtime: Runtime
    ) -> None:
        self.model = model
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
        return self.model.config.max_seq_len

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all requests, in order. Raises: DataError if a prompt does not fit."""
        sequences = [self._sequence(key, request) for key, request in enumerate(requests)]
        scheduler = self._scheduler()
        for sequence in sequences:
            scheduler.add(sequence)
        while scheduler.num_pending:
            scheduler.advance()
        return [sequence.completion() for sequence in sequences]

    def stream(self, request: Request) -> Iterator[TokenStep]:
        """Answer one request token by token. Raises: DataError if the prompt does not fit."""
        sequence = self._sequence(0, request)
        scheduler = self._scheduler()
        scheduler.add(sequence)
        return _steps(scheduler, sequence)

    def session(self) -> NativeSession:
        """Open a batch that requests may join and leave while it runs."""
        return NativeSession(self._scheduler(), self._watched_sequence)

    def _watched_sequence(self, key: int, request: Request) -> Running:
        return self._sequence(key, request, watch=True)

    def _scheduler(self) -> Scheduler:
        runtime = self.runtime
        return Scheduler(
            self.model,
            self.config,
            runtime.kernels,
            runtime.device,
            runtime.torch_device,
            runtime.precision.compute_dtype,
        )

    def _sequence(self, key: int, request: Request, *, watch: bool = False) -> Running:
        room = check_fits(request, self.max_seq_len, self.model.config.vocab_size)
        limit = min(request.sampling.max_new_tokens, room)
        return Running(key, request, self.tokenizer, limit, watch_text=watch)


def build(model_dir: Path, config: EngineConfig, runtime: Runtime) -> NativeEngine:
    """Load a model folder and make its engine."""
    if not isinstance(config, NativeEngineConfig):
        raise ConfigError(
            f"engine={config.name} was given {type(config).__name__}; it needs NativeEngineConfig"
        )
    dtype = runtime.precision.param_dtype.torch()
    model, _ = load_model(model_dir, runtime.kernels, dtype, runtime.torch_device)
    model.eval().requires_grad_(False)
    return NativeEngine(model, Tokenizer.load(model_dir), config, runtime)


def _steps(scheduler: Scheduler, sequence: Running) -> Iterator[TokenStep]:
    while scheduler.num_pending:
        scheduler.advance()
        yield sequence.steps[-1]
