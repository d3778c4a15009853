"""One thread that owns the engine: requests of all clients meet in its batch.

Only this thread touches the session. Others hand it commands through a queue, and it calls their listeners;
a listener must be quick and safe to call from here.
"""

import itertools
import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from portable.core.errors import DataError, PortableError
from portable.engine.protocol import Engine, Session
from portable.engine.request import Progress, Request
from portable.engine.session import open_session

logger = logging.getLogger(__name__)
_STOPPED = "the server is stopping"
Listener = Callable[[Progress | PortableError], None]


@dataclass(frozen=True, slots=True)
class _Add:
    key: int
    request: Request
    listener: Listener


@dataclass(frozen=True, slots=True)
class _Cancel:
    key: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class Worker:
    """Runs from construction to ``close``."""

    def __init__(self, engine: Engine, max_batch_size: int) -> None:
        self._engine = engine
        self._max_batch_size = max_batch_size
        self._commands: queue.SimpleQueue[_Add | _Cancel | _Stop] = queue.SimpleQueue()
        self._listeners: dict[int, Listener] = {}
        self._keys = itertools.count()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._running = self._pool.submit(self._run)
        self._running.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        """Whether requests are being answered."""
        return not self._running.done()

    def submit(self, request: Request, listener: Listener) -> int:
        """Queue a request and return its key; ``listener`` hears of each token, or of its failure."""
        key = next(self._keys)
        self._commands.put(_Add(key, request, listener))
        if not self.alive:
            self._refuse_waiting(_STOPPED)
        return key

    def cancel(self, key: int) -> None:
        """Forget a request: nobody listens any more. Harmless when it has already ended."""
        self._commands.put(_Cancel(key))

    def close(self) -> None:
        """Stop after the present pass; whoever still waits is told so."""
        self._commands.put(_Stop())
        self._pool.shutdown(wait=True)

    def _run(self) -> None:
        session = open_session(self._engine, self._max_batch_size)
        while self._obey(session):
            try:
                news = session.step()
            except PortableError as error:
                logger.error("a batch failed: %s", error)
                self._fail_all(error)
                session = open_session(self._engine, self._max_batch_size)
                continue
            for item in news:
                self._tell(item)

    def _obey(self, session: Session) -> bool:
        """Carry out the waiting commands; with nothing to generate, wait for one. False means stop."""
        while True:
            try:
                command = self._commands.get(block=session.num_pending == 0)
            except queue.Empty:
                return True
            match command:
                case _Add():
                    self._add(session, command)
                case _Cancel():
                    session.cancel(command.key)
                    self._listeners.pop(command.key, None)
                case _Stop():
                    self._fail_all(PortableError(_STOPPED))
                    return False

    def _add(self, session: Session, command: _Add) -> None:
        try:
            session.add(command.key, command.request)
        except DataError as error:
            command.listener(error)
        else:
            self._listeners[command.key] = command.listener

    def _tell(self, news: Progress) -> None:
        listener = self._listeners.get(news.key)
        if listener is not None:
            listener(news)
        if news.finish_reason is not None:
            self._listeners.pop(news.key, None)

    def _fail_all(self, error: PortableError) -> None:
        listeners = list(self._listeners.values())
        self._listeners.clear()
        for listener in listeners:
            listener(error)

    def _ended(self, running: Future[None]) -> None:
        error = running.exception()
        reason = _STOPPED
        if error is not None:
            logger.error("the engine stopped on an unexpected error", exc_info=error)
            reason = f"the engine stopped on an unexpected error: {error!r}"
        self._fail_all(PortableError(reason))
        self._refuse_waiting(reason)

    def _refuse_waiting(self, reason: str) -> None:
        """Answer commands that nobody will carry out."""
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            if isinstance(command, _Add):
                command.listener(PortableError(reason))
