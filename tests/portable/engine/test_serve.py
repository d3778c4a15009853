"""The serve stage: its address, its key, its life from start to SIGTERM."""

import json
import logging
import os
import signal
import socket
import threading
import urllib.request
from pathlib import Path

import pytest

from portable.core.errors import ConfigError, UserError
from portable.engine.config import NativeEngineConfig
from portable.engine.serve import bind, read_api_key, run_serve
from portable.engine.serve_config import ServeConfig
from portable.parallel.runtime import Runtime


def test_bind_listens_at_a_free_port() -> None:
    with bind("127.0.0.1", 0) as bound:
        host, port = bound.getsockname()
        assert (host, port > 0) == ("127.0.0.1", True)
        socket.create_connection((host, port), timeout=5).close()


def test_a_port_in_use_is_told_with_a_remedy() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(UserError, match=rf"host=127.0.0.1, port={port}: the port is in use; .*port=0"):
            bind("127.0.0.1", port)


def test_a_host_that_is_no_address_is_told_with_a_remedy() -> None:
    with pytest.raises(UserError, match=r"host=256\.256\.256\.256 is no address .*use host=127\.0\.0\.1"):
        bind("256.256.256.256", 0)


def test_an_address_of_another_machine_is_told_with_a_remedy() -> None:
    with pytest.raises(UserError, match="no network device of this machine has that address"):
        bind("192.0.2.1", 0)  # reserved for documentation: nobody has it


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    assert read_api_key("MY_KEY") == "secret"
    assert read_api_key("") is None


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="api_key_env=MY_KEY, but that environment variable is not set"):
        read_api_key("MY_KEY")


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path, runtime: Runtime) -> None:
    with bind("127.0.0.1", 0) as bound:
        config = ServeConfig(model_path=str(tmp_path / "no model"), port=bound.getsockname()[1])
        with pytest.raises(UserError, match="the port is in use"):
            run_serve(config, runtime, NativeEngineConfig())


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serves_under_the_folders_name_until_a_signal(
    model_dir: Path, runtime: Runtime, caplog: pytest.LogCaptureFixture, stop: signal.Signals
) -> None:
    """uvicorn takes signals only in the main thread: the client runs beside it and sends one at the end."""
    answers: list[bytes] = []
    ended = threading.Event()
    caplog.set_level(logging.INFO, "portable.engine.serve")

    def client() -> None:
        url = ""
        while not url:
            if ended.wait(0.01):
                return
            url = next(
                (f"{r.args[1]}:{r.args[2]}" for r in caplog.records if r.msg.startswith("serving")), ""
            )
        try:
            # The socket listens already: the call waits until the server takes it.
            with urllib.request.urlopen(f"http://{url}/v1/models", timeout=60) as answer:
                answers.append(answer.read())
        finally:
            os.kill(os.getpid(), stop)

    logging.getLogger("portable").propagate = True
    thread = threading.Thread(target=client, daemon=True)
    # uvicorn raises the signal again when it is done: SIGTERM must not end the tests.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    thread.start()
    try:
        run_serve(ServeConfig(model_path=str(model_dir), port=0), runtime, NativeEngineConfig())
    finally:
        ended.set()
        thread.join(timeout=60)
        signal.signal(signal.SIGTERM, previous)
    assert [model["id"] for model in json.loads(answers[0])["data"]] == [model_dir.name]
