"""``portable emulate ascend``: start a program so that torch_npu finds an emulated chip."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from backends.ascend.emulation.chip import ALIASES, CHIPS, Chip, find_chip
from portable.core.errors import BackendUnavailable, ConfigError, PortableError
from portable.core.text import parse_bytes

KNOWN_VERSION = "2.13.0"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"portable emulate ascend: {message}")


def run(options: list[str], command: list[str]) -> NoReturn:
    """Replace this process by ``command`` under the emulator that ``options`` describe."""
    parser = _Parser(prog="portable emulate ascend", description=__doc__, allow_abbrev=False)
    parser.add_argument("--soc", default="910b2", help=f"the chip: {', '.join([*CHIPS, *ALIASES])}")
    parser.add_argument("--memory", help="memory of one device, e.g. 2GiB; the chip's own by default")
    parser.add_argument("--devices", type=int, default=8, help="how many devices the machine has")
    settings = parser.parse_args(options)
    chip = find_chip(settings.soc)
    if not 1 <= settings.devices <= 64:
        raise ConfigError(f"--devices {settings.devices}: use 1 to 64")
    memory_bytes = parse_size(settings.memory) if settings.memory else chip.memory_bytes
    if not command:
        raise ConfigError(
            "portable emulate ascend: what is to be run? Put it behind --, e.g. -- python train.py"
        )
    surroundings = {**os.environ, **environment(chip, memory_bytes, settings.devices)}
    program = shutil.which(command[0], path=surroundings["PATH"])
    if program is None:
        raise ConfigError(f"portable emulate ascend: there is no program '{command[0]}'")
    sys.stderr.write(
        f"emulating {settings.devices} x {chip.soc_name} of {memory_bytes / (1 << 30):.3g} GiB: the "
        f"function of torch_npu {KNOWN_VERSION}, not its speed; what has no reference raises an error\n"
    )
    sys.stderr.flush()
    os.execve(program, command, surroundings)


def environment(chip: Chip, memory_bytes: int, num_devices: int) -> dict[str, str]:
    """Return the variables that make a process, and those that it starts, find the emulated chip."""
    check_versions()
    from backends.ascend.emulation.toolkit import CANN_VERSION, build_kernels, lay_out

    home = lay_out()
    return {
        "ASCEND_HOME_PATH": str(home),
        "ASCEND_OPP_PATH": str(home / "opp"),
        "LD_LIBRARY_PATH": _before("LD_LIBRARY_PATH", home / "lib64"),
        "PATH": _before("PATH", Path(sys.executable).parent),
        "PYTHONPATH": _before("PYTHONPATH", Path(__file__).parent / "boot"),
        "PORTABLE_ASCEND_SOC": chip.soc_name,
        "PORTABLE_ASCEND_MEMORY": str(memory_bytes),
        "PORTABLE_ASCEND_DEVICES": str(num_devices),
        "PORTABLE_ASCEND_CUBE_CORES": str(chip.num_cube_cores),
        "PORTABLE_ASCEND_VECTOR_CORES": str(chip.num_vector_cores),
        "PORTABLE_ASCEND_BF16": str(int(chip.has_bf16)),
        "PORTABLE_ASCEND_CANN": CANN_VERSION,
        "PORTABLE_ASCEND_KERNELS": str(build_kernels()),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",  # as on a machine with a chip: `import torch` brings the device
        # torch_npu's own thread for launching kernels would run beside kernels that are computed at the call.
        "TASK_QUEUE_ENABLE": "0",
    }


def check_versions() -> None:
    """Raise BackendUnavailable unless the one torch_npu whose symbols are known is installed."""
    try:
        found = version("torch_npu")
    except PackageNotFoundError:
        raise BackendUnavailable(
            f"the Ascend emulator runs the real torch_npu, which is not installed in {sys.prefix}; "
            f"make ascend-emulation prepares an environment that has it"
        ) from None
    if found.split("+")[0] != KNOWN_VERSION:
        raise BackendUnavailable(
            f"the Ascend emulator knows torch_npu {KNOWN_VERSION}, and {found} is installed; the symbols "
            f"that it asks of CANN change by release, so what fails there says nothing about a program"
        )


def parse_size(text: str) -> int:
    """Return bytes. Raises: ConfigError if ``text`` is no size."""
    size = parse_bytes(text)
    if size is None:
        raise ConfigError(f"--memory {text}: write a size such as 512MiB or 2GiB")
    return size


def _before(variable: str, folder: Path) -> str:
    rest = [part for part in os.environ.get(variable, "").split(os.pathsep) if part and part != str(folder)]
    return os.pathsep.join([str(folder), *rest])


def main() -> None:
    """``python -m backends.ascend.emulation.run [OPTIONS] -- COMMAND``, for where the verb is not at hand."""
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    try:
        run(words[:split], words[split + 1 :])
    except PortableError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
