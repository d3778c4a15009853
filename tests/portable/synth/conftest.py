"""Documents, a corpus folder, and a fake teacher: a real HTTP server whose reply is a pure function of the
prompt.
"""

import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
import zstandard
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from portable.core.artefact import seal
from portable.core.record import Document
from portable.synth.teacher.config import OpenAiTeacherConfig

FAULTS = (
    "rate_limited",
    "server_error",
    "broken_json",
    "no_json",
    "wrong_schema",
    "invented",
    "cut_off",
    "one_pair",
)


class FakeTeacher:
    """Answers with sentences of the passage. ``faults`` maps a word to what befalls passages that hold it."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.delay_s: Callable[[str], float] = lambda prompt: 0.0
        self.bodies: list[dict] = []
        self.keys: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.base_url = ""

    @property
    def unique_prompts(self) -> int:
        return len(self.attempts)

    def reply(self, body: dict) -> JSONResponse:
        prompt = body["messages"][-1]["content"]
        with self.lock:
            self.bodies.append(body)
            self.attempts[prompt] += 1
            attempt = self.attempts[prompt]
        passage = prompt.split("Passage:\n", 1)[1]
        count = int(prompt.split()[1])
        fault = next((kind for word, kind in self.faults.items() if word in passage), "")
        if fault == "server_error" or (fault == "rate_limited" and attempt == 1):
            status = 500 if fault == "server_error" else 429
            return JSONResponse({"error": {"message": fault}}, status, headers={"retry-after-ms": "1"})
        sentences = [line.strip() for line in passage.replace("\n", " ").split(". ") if line.strip()]
        pairs = [
            {"question": f"What is told about {sentence.split()[0]} {hash_of(sentence)}?", "answer": sentence}
            for sentence in sentences[:count]
        ]
        return JSONResponse(
            self.completion(body, spoil(fault, pairs), "length" if fault == "cut_off" else "stop")
        )

    def completion(self, body: dict, content: str, finish: str) -> dict:
        return {
            "id": "chat-" + hash_of(json.dumps(body, sort_keys=True)),
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }


def spoil(fault: str, pairs: list[dict]) -> str:
    if fault == "no_json":
        return "I am sorry, I cannot do that."
    if fault == "wrong_schema":
        return '{"pairs": [{"q": "?"}]}'
    if fault == "invented":
        pairs = [{**pair, "answer": "Napoleon invented the bicycle in Vienna."} for pair in pairs]
    if fault == "one_pair":
        pairs = pairs[:1]
    text = json.dumps({"pairs": pairs})
    if fault == "broken_json":
        return text.replace('"answer":', '"answer"')
    # Models think aloud and fence: half of the good replies do, by their content.
    return f"<think>{{hm}}</think>\n```json\n{text}\n```" if int(hash_of(text), 16) % 2 else text


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


@pytest.fixture
def fake_teacher() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        fake.keys.add(request.headers.get("authorization", ""))
        if body["model"] != "fake-1":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        delay = fake.delay_s(body["messages"][-1]["content"])
        if delay:
            import asyncio

            await asyncio.sleep(delay)
        return fake.reply(body)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    fake.base_url = f"http://127.0.0.1:{port}/v1"
    yield fake
    server.should_exit = True
    thread.join()


@pytest.fixture
def teacher_config(fake_teacher: FakeTeacher) -> OpenAiTeacherConfig:
    return OpenAiTeacherConfig(base_url=fake_teacher.base_url, model="fake-1", api_key_env="", retries=2)


WORDS = [
    "amber",
    "birch",
    "cedar",
    "daisy",
    "ebony",
    "fern",
    "grape",
    "hazel",
    "ivy",
    "jade",
    "kelp",
    "lotus",
    "maple",
    "nettle",
    "olive",
    "pine",
    "quince",
    "rose",
]


def make_page(number: int) -> Document:
    """A page in the layout of ``python_docs``, unlike every other."""
    first, second = WORDS[number % len(WORDS)], WORDS[number // len(WORDS)]
    name = f"{first}.{second}.call{number}"
    text = (
        f"{name}(left, right)\n\nReturn the {first} of {second} number {number}.\n\n"
        f"The {second} tree grows beside the {first} river. It is taller than {number} metres in summer.\n"
    )
    metadata = {"name": name, "module": f"{first}.{second}", "kind": "function", "signature": "(left, right)"}
    return Document(text, f"page-{number}", metadata)


@pytest.fixture
def pages() -> list[Document]:
    return [make_page(number) for number in range(40)]


@pytest.fixture
def corpus(tmp_path: Path, pages: list[Document]) -> Path:
    path = tmp_path / "corpus"
    (path / "documents").mkdir(parents=True)
    for split, documents in (("train", pages[:30]), ("heldout", pages[30:])):
        lines = [json.dumps({"id": doc.id, "text": doc.text, "metadata": doc.metadata}) for doc in documents]
        file = path / "documents" / f"{split}.jsonl.zst"
        file.write_bytes(zstandard.compress("".join(line + "\n" for line in lines).encode()))
    seal(path, "corpus", ["documents"])
    return path
