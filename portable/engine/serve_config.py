"""Settings of the server and of the terminal chat."""

from dataclasses import dataclass, field

from portable.core.errors import ConfigError
from portable.engine.request import SamplingConfig

MAX_PORT = 65_535


def _check_port(port: object) -> None:
    # object: while a config is being composed, a field may still hold "???"
    if isinstance(port, int) and not 0 <= port <= MAX_PORT:
        raise ConfigError(f"port={port}; use 0 for a free one, or 1 to {MAX_PORT}")


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """Serve ``model``, a folder, at ``host:port``; port 0 takes a free one.

    ``served_name`` is the name that clients ask for; empty means the folder's own. ``api_key_env`` names the
    environment variable that holds the key clients must send; empty means no key. The key itself never stands
    in a config.
    """

    model_path: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str = ""
    api_key_env: str = ""

    def __post_init__(self) -> None:
        _check_port(self.port)


@dataclass(kw_only=True, slots=True)
class ChatConfig:
    """Talk to ``model``, a folder, in the terminal. With a ``prompt``: answer it, print the answer, end."""

    model_path: str = ""
    system: str = ""
    prompt: str = ""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(max_new_tokens=256, temperature=0.7, top_p=0.95)
    )
