"""What each verb must be told to read. Composing and dry runs do without; running does not."""

from dataclasses import fields

from portable.core.errors import ConfigError
from portable.job.schema import MachineConfig

_INPUTS = {
    "data": ("source",),
    "pretrain": ("data or mixture",),
    "synth": ("data",),
    "sft": ("model_path", "data"),
    "rl": ("model_path",),
    "eval": ("models", "corpus", "conversations"),
    "export": ("model_path",),
    "serve": ("model_path",),
    "chat": ("model_path",),
    "run": (),
}


def require_inputs(verb: str, job: MachineConfig) -> None:
    """Raise a ConfigError that names the first input of ``verb`` that was left empty."""
    given = {item.name: getattr(job, item.name) for item in fields(job)}
    for wanted in _INPUTS[verb]:
        names = wanted.split(" or ")
        if not any(given[name] for name in names):
            name = names[0]
            example = f"+{name}.NAME=PATH" if isinstance(given[name], dict) else f"{name}=PATH"
            raise ConfigError(f"portable {verb} needs '{name}', which has no default; add {example}")
