"""The HTTP application: OpenAI's endpoints over one engine.

Every call becomes requests to the worker's batch; what comes back is collected into one answer or streamed as
server-sent events. A client that hangs up frees its slots.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from portable.core.errors import ConfigError, DataError, PortableError, did_you_mean
from portable.engine.protocol import Engine
from portable.engine.request import Progress, Request
from portable.engine.sequence import PromptTooLongError
from portable.engine.server.body import ChatBody, CompletionBody
from portable.engine.server.reply import Choice, Json, Reply, error_body, model_card
from portable.engine.server.worker import Worker

logger = logging.getLogger(__name__)
_INVALID = "invalid_request_error"
# Fields that take one of several forms: the checker's complaint would be about one of them only.
_FORMS = {
    "prompt": "use a text, a list of token ids, or a list of either",
    "stop": "use a text or a list of texts",
}


class Api:
    """The endpoints. One instance serves one engine under one name."""

    def __init__(
        self, engine: Engine, model_name: str, max_batch_size: int, api_key: str | None = None
    ) -> None:
        self.engine = engine
        self.model_name = model_name
        self.created = int(time.time())
        self.worker = Worker(engine, max_batch_size)
        self._api_key = api_key

    def health(self) -> Response:
        """Answer 200 while the engine works, else 503."""
        alive = self.worker.alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    def models(self) -> Json:
        """List the one model."""
        return {"object": "list", "data": [model_card(self.model_name, self.created)]}

    def model(self, name: str) -> Response:
        """Describe the one model."""
        return self._unknown_model(name) or JSONResponse(model_card(self.model_name, self.created))

    async def completions(self, body: CompletionBody, http: HttpRequest) -> Response:
        """Continue prompts."""
        return await self._answer(body, http)

    async def chat_completions(self, body: ChatBody, http: HttpRequest) -> Response:
        """Continue a conversation."""
        return await self._answer(body, http)

    def check_key(self, http: HttpRequest) -> None:
        """Refuse a call without the key, where one is set."""
        if self._api_key is None:
            return
        given = http.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self._api_key.encode()):
            raise HTTPException(401, "wrong or missing API key; send 'Authorization: Bearer KEY'")

    def _unknown_model(self, name: str) -> Response | None:
        if name == self.model_name:
            return None
        near = did_you_mean(name, [self.model_name])
        message = f"the model '{name}' is not served here.{near} Served: {self.model_name}"
        return JSONResponse(error_body(message, _INVALID, param="model", code="model_not_found"), 404)

    async def _answer(self, body: CompletionBody | ChatBody, http: HttpRequest) -> Response:
        refusal = self._unknown_model(body.model)
        if refusal is not None:
            return refusal
        requests = body.requests(self.engine.tokenizer, self.engine.max_seq_len)
        reply = Reply(
            tokenizer=self.engine.tokenizer,
            model=self.model_name,
            is_chat=isinstance(body, ChatBody),
            wants_log_probs=body.wants_log_probs,
            include_usage=body.include_usage,
            num_prompt_tokens=sum(len(item.prompt_ids) for item in requests[:: body.num_choices]),
        )
        call = Call(self.worker, requests)
        if not body.stream:
            return await _collect(call, reply, http)
        # The first news come before the head is sent: a prompt that does not fit is still a proper 400.
        first = await call.next()
        return StreamingResponse(_events(call, reply, first), media_type="text/event-stream")


class Call:
    """The requests of one HTTP call on their way. News arrive from the worker's thread."""

    def __init__(self, worker: Worker, requests: Sequence[Request]) -> None:
        self.choices = [Choice(index) for index in range(len(requests))]
        self._worker = worker
        self._news: asyncio.Queue[tuple[int, Progress | PortableError]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._keys = [worker.submit(request, self._listener(index)) for index, request in enumerate(requests)]

    @property
    def is_finished(self) -> bool:
        """Whether every choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    async def next(self) -> tuple[Choice, Progress]:
        """Wait for the next token of any choice.

        Raises: what the worker reports; the other choices are cancelled.
        """
        index, item = await self._news.get()
        if isinstance(item, PortableError):
            self.cancel()
            raise item
        self.choices[index].take(item)
        return self.choices[index], item

    def cancel(self) -> None:
        """Free the slots of what still runs."""
        for key, choice in zip(self._keys, self.choices, strict=True):
            if choice.finish_reason is None:
                self._worker.cancel(key)

    def _listener(self, index: int) -> Callable[[Progress | PortableError], None]:
        def listen(item: Progress | PortableError) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._news.put_nowait, (index, item))

        return listen


async def _collect(call: Call, reply: Reply, http: HttpRequest) -> Response:
    """Wait for the whole answer, or for the client to hang up."""

    async def finish() -> None:
        while not call.is_finished:
            await call.next()

    work = asyncio.ensure_future(finish())
    gone = asyncio.ensure_future(_hang_up(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            logger.info("a client hung up; its %d requests are cancelled", len(call.choices))
            return Response(status_code=499)  # nobody reads it; 499 is what logs of web servers use
        work.result()  # raises what the worker reported
        return JSONResponse(reply.whole(call.choices))
    finally:
        work.cancel()
        gone.cancel()
        call.cancel()


async def _hang_up(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _events(call: Call, reply: Reply, first: tuple[Choice, Progress]) -> AsyncIterator[str]:
    """Write server-sent events; the server closes this generator when the client hangs up."""
    try:
        if reply.is_chat:
            for choice in call.choices:
                yield _event(reply.opening(choice))
        choice, news = first
        while True:
            if news.text or news.finish_reason or reply.wants_log_probs:
                yield _event(reply.part(choice, news))
            if call.is_finished:
                break
            choice, news = await call.next()
        if reply.include_usage:
            yield _event(reply.closing(call.choices))
        yield "data: [DONE]\n\n"
    except PortableError as error:  # the head is long sent: the error travels as an event
        yield _event(error_body(str(error), "server_error"))
    finally:
        call.cancel()


def _event(content: Json) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _invalid_body(http: HttpRequest, error: Exception) -> Response:
    """Say which field of a body is wrong, in OpenAI's form."""
    details = error.errors() if isinstance(error, RequestValidationError) else []
    param, problem = _first_problem(details)
    message = f"{param}: {problem}" if param else problem
    return JSONResponse(error_body(message, _INVALID, param=param), 400)


def _first_problem(details: Sequence[Json]) -> tuple[str | None, str]:
    if not details:
        return None, "the body is not valid"
    detail = details[0]
    path = [part for part in detail["loc"] if part != "body"]
    param = str(path[0]) if path else None
    kind, text = detail["type"], str(detail["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        return None, "the body is no valid JSON"
    if kind == "extra_forbidden":
        return ".".join(map(str, path)), "is not supported here; leave it out"
    return param, _FORMS.get(param or "", text) if kind != "value_error" else text


async def _user_error(http: HttpRequest, error: Exception) -> Response:
    code = "context_length_exceeded" if isinstance(error, PromptTooLongError) else None
    param = "messages" if "chat" in http.url.path else "prompt"  # all else in a body is checked before
    return JSONResponse(error_body(str(error), _INVALID, param=param, code=code), 400)


async def _server_error(http: HttpRequest, error: Exception) -> Response:
    return JSONResponse(error_body(str(error), "server_error"), 500)


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _server_error(http, error)
    if error.status_code == 401:
        return JSONResponse(error_body(error.detail, "authentication_error", code="invalid_api_key"), 401)
    message = f"{http.method} {http.url.path}: {error.detail}"
    return JSONResponse(error_body(message, _INVALID), error.status_code)


def create_app(engine: Engine, model_name: str, max_batch_size: int, api_key: str | None = None) -> FastAPI:
    """Return the application; its worker runs until the application shuts down."""
    api = Api(engine, model_name, max_batch_size, api_key)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(api.worker.close)

    # No pages of documentation: they load scripts from the net.
    app = FastAPI(title="Portable", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_api_route("/health", api.health, methods=["GET"])
    router = APIRouter(prefix="/v1", dependencies=[Depends(api.check_key)])
    router.add_api_route("/models", api.models, methods=["GET"])
    router.add_api_route("/models/{name:path}", api.model, methods=["GET"], response_model=None)
    router.add_api_route("/completions", api.completions, methods=["POST"], response_model=None)
    router.add_api_route("/chat/completions", api.chat_completions, methods=["POST"], response_model=None)
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(DataError, _user_error)
    app.add_exception_handler(ConfigError, _user_error)
    app.add_exception_handler(PortableError, _server_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app
