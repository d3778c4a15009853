"""The serve stage: an engine behind HTTP until somebody stops it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from portable.core.errors import ConfigError, UserError
from portable.engine.build import build_engine
from portable.engine.config import EngineConfig
from portable.engine.serve_config import ServeConfig
from portable.engine.server.app import create_app

if TYPE_CHECKING:
    from portable.parallel.runtime import Runtime

logger = logging.getLogger(__name__)
_GRACE_S = 10  # answers under way may take so long to end after the first Ctrl-C


def run_serve(config: ServeConfig, runtime: Runtime, engine: EngineConfig) -> None:
    """Serve until SIGINT or SIGTERM; answers under way are finished first.

    Raises: UserError if the address cannot be had; ConfigError if the key's variable is empty.
    """
    api_key = read_api_key(config.api_key_env)
    bound = bind(config.host, config.port)  # before the model loads: a taken port is told at once
    with bound:
        model_dir = Path(config.model_path)
        name = config.served_name or model_dir.resolve().name
        app = create_app(build_engine(model_dir, engine, runtime), name, engine.max_batch_size, api_key)
        host, port = bound.getsockname()[:2]
        if api_key is None and not _is_loopback(host):
            logger.warning("%s:%d is open to the network without a key; set api_key_env", host, port)
        logger.info("serving '%s' at http://%s:%d/v1 (Ctrl-C stops)", name, host, port)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
        )
        # uvicorn ends gracefully and then raises the signal again, which for Ctrl-C is this exception.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[bound])
    logger.info("stopped")


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises: UserError that names the address and what would work.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"host={host} is no address of this machine ({error}); use host=127.0.0.1") from error
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        raise UserError(f"cannot listen at host={host}, port={port}: {_explain(error)}") from error
    return bound


def read_api_key(variable: str) -> str | None:
    """Return the key that clients must send, or None if no variable is named.

    Raises: ConfigError if the variable is unset or empty.
    """
    if not variable:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            f"api_key_env={variable}, but that environment variable is not set; export it, or leave "
            "api_key_env empty"
        )
    return key


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the program that has it, or use port=0 for a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "ports below 1024 are the administrator's; use port=8000 or another above"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no network device of this machine has that address; use host=127.0.0.1"
    return str(error)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
