"""A session for every engine: continuous where the engine can, else batch by batch."""

from portable.core.errors import PortableError
from portable.engine.protocol import Engine, Session, SteppingEngine
from portable.engine.request import Completion, Progress, Request
from portable.engine.sequence import Sequence, check_fits


def open_session(engine: Engine, max_batch_size: int) -> Session:
    """Return the engine's own session, or one that answers ``max_batch_size`` waiting requests at a time."""
    return engine.session() if isinstance(engine, SteppingEngine) else BatchSession(engine, max_batch_size)


class BatchSession:
    """Collects requests and answers them together; the news of a whole batch come at once."""

    def __init__(self, engine: Engine, max_batch_size: int) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._waiting: dict[int, Request] = {}

    @property
    def num_pending(self) -> int:
        """Requests that are not answered."""
        return len(self._waiting)

    def add(self, key: int, request: Request) -> None:
        """Queue ``request``. Raises: DataError if the prompt does not fit: no batch mate shall suffer."""
        check_fits(request, self._engine.max_seq_len, self._engine.tokenizer.vocab_size)
        self._waiting[key] = request

    def cancel(self, key: int) -> None:
        """Forget a request that still waits."""
        self._waiting.pop(key, None)

    def step(self) -> list[Progress]:
        """Answer the requests that waited longest."""
        keys = list(self._waiting)[: self._max_batch_size]
        requests = [self._waiting.pop(key) for key in keys]
        completions = self._engine.generate(requests) if requests else []
        return [
            news
            for key, request, completion in zip(keys, requests, completions, strict=True)
            for news in self._replay(key, request, completion)
        ]

    def _replay(self, key: int, request: Request, completion: Completion) -> list[Progress]:
        limit = request.sampling.max_new_tokens
        sequence = Sequence(key, request, self._engine.tokenizer, limit, watch_text=True)
        if not completion.steps:
            raise PortableError("the engine answered a request with no token at all")
        news: list[Progress] = []
        for index, step in enumerate(completion.steps, start=1):
            sequence.take(step)
            if index == len(completion.steps) and sequence.finish_reason is None:
                sequence.end(completion.finish_reason)
            news.append(sequence.progress())
        return news
