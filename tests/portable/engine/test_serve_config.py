"""Settings of server and chat."""

import pytest

from portable.core.errors import ConfigError
from portable.engine.serve_config import ChatConfig, ServeConfig


def test_the_server_binds_to_loopback_unless_told_otherwise() -> None:
    assert ServeConfig(model_path="m").host == "127.0.0.1"


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_outside_the_range_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port={port}; use 0"):
        ServeConfig(model_path="m", port=port)


def test_a_port_that_is_not_composed_yet_is_let_pass() -> None:
    assert ServeConfig(port="???").port == "???"  # pyright: ignore[reportArgumentType]


def test_chats_do_not_share_their_sampling_settings() -> None:
    first, second = ChatConfig(model_path="m"), ChatConfig(model_path="m")
    first.sampling.temperature = 0.0
    assert second.sampling.temperature == 0.7
