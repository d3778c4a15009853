"""``portable emulate NAME [OPTIONS] -- COMMAND``: run any program on hardware that is not there."""

from __future__ import annotations

from importlib.metadata import entry_points

from portable.core.errors import BackendUnavailable, ConfigError, did_you_mean

GROUP = "portable.emulators"  # name -> a function of (options, command) that runs the command


def run_emulate(arguments: list[str]) -> int:
    """Hand options and command to the emulator NAME; returns the command's exit code, if it returns."""
    known = {point.name: point for point in entry_points(group=GROUP)}
    usage = "portable emulate NAME [OPTIONS] -- COMMAND"
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"which emulator? {usage}; installed: {', '.join(sorted(known)) or 'none'}")
    name, *rest = arguments
    if name not in known:
        raise ConfigError(
            f"there is no emulator '{name}'.{did_you_mean(name, known)} "
            f"Installed: {', '.join(sorted(known)) or 'none'}"
        )
    split = rest.index("--") if "--" in rest else len(rest)
    try:
        emulate = known[name].load()
    except ImportError as error:
        raise BackendUnavailable(f"the emulator '{name}' is installed but broken: {error}") from error
    return emulate(rest[:split], rest[split + 1 :])
