"""The server as its users meet it: started from the command line, driven by the official client."""

import signal
import socket
import subprocess
import time

import pytest

from tests.chain.chain import command, environment, run_verb


@pytest.fixture(scope="module")
def server(mini):
    from openai import APIConnectionError, OpenAI

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["serve", f"model_path={mini.artefact('export')}", f"port={port}"]
    process = subprocess.Popen(
        command(*words),
        cwd=mini.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                client.models.list()
                break
            except APIConnectionError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
        yield client
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output


def test_lists_the_model_and_answers(server) -> None:
    model = server.models.list().data[0].id
    turns = [{"role": "user", "content": "3+4="}]
    answer = server.chat.completions.create(model=model, messages=turns, max_tokens=4, seed=1)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 4
    again = server.chat.completions.create(model=model, messages=turns, max_tokens=4, seed=1)
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_a_stream_says_what_the_whole_says(server) -> None:
    model = server.models.list().data[0].id
    settings = {"model": model, "prompt": "Return the", "max_tokens": 12, "temperature": 0}
    whole = server.completions.create(**settings).choices[0].text
    parts = [
        chunk.choices[0].text for chunk in server.completions.create(**settings, stream=True) if chunk.choices
    ]
    assert "".join(parts) == whole


def test_chat_answers_one_prompt_in_the_terminal(mini) -> None:
    done = run_verb(mini.folder, "chat", f"model_path={mini.artefact('export')}", "prompt='3+4='")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
