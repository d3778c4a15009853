"""Compile C++ sources into a shared library on first use, and keep it.

The library lies in ``<cache>/native/<name>-<key>/lib<name>.so``. The key covers all that the result
depends on, so a new torch, compiler or source builds anew and an old library is never taken for a new
one. Torch itself is not imported.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from portable.core.errors import BackendUnavailable

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
CORE_SOURCES: tuple[Path, ...] = tuple(sorted(FOLDER.glob("*.cpp")))
"""What a device library compiles beside its own sources; the headers are on every build's include path."""

_COMPILERS = ("g++", "c++", "clang++")
_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-fvisibility-inlines-hidden")
_TORCH_LIBRARIES = ("-ltorch", "-ltorch_cpu", "-lc10")
_MAX_ERROR_LINES = 6


def cache_folder() -> Path:
    """Where built libraries are kept: ``native`` in ``$PORTABLE_CACHE``, else in ``~/.cache/portable``."""
    root = os.environ.get("PORTABLE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "portable") / "native"


def build_library(
    name: str,
    sources: Sequence[Path],
    extra_flags: Sequence[str] = (),
    *,
    link_torch: bool = True,
    joined: bool = False,
) -> Path:
    """Return ``lib<name>.so`` made of ``sources``; compile it if no process has done so before.

    ``extra_flags`` go to the compiler and the linker alike. With ``link_torch`` torch's headers and libraries
    are used; without, the library is plain C++. Headers (``*.h``) beside the sources and in the folders of
    ``-I`` flags count as sources for the cache. ``joined`` compiles as many sources in one go as keep every
    core busy: torch's headers, which are most of the work, are then read once a core instead of once a
    source. What a source keeps to itself must have a name that no other source uses.
    Raises: BackendUnavailable if there is no compiler, the cache cannot be written, or a source is refused.
    """
    library = library_path(name, sources, extra_flags, link_torch=link_torch)
    if library.exists():
        return library
    compiler, torch_folder = _compiler(), _torch_folder() if link_torch else None
    flags = _all_flags(torch_folder, extra_flags)
    folder = library.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock") as alone:
            if not library.exists():
                for leftover in folder.glob("partial-*") if alone else ():  # of a build that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                _build(library, sources, compiler, flags, _link_flags(torch_folder), joined)
    except OSError as error:
        raise BackendUnavailable(
            f"the native library '{name}' cannot be kept in {folder}: {error.strerror or error}; "
            "set PORTABLE_CACHE to a folder that can be written and has space"
        ) from error
    return library


def library_path(
    name: str, sources: Sequence[Path], extra_flags: Sequence[str] = (), *, link_torch: bool = True
) -> Path:
    """Return where ``build_library`` keeps its result; the file exists once it was built.

    Raises: BackendUnavailable if there is no compiler.
    """
    compiler, torch_folder = _compiler(), _torch_folder() if link_torch else None
    key = _key(sources, compiler, _all_flags(torch_folder, extra_flags), link_torch)
    return cache_folder() / f"{name}-{key}" / f"lib{name}.so"


def _compiler() -> list[str]:
    """The compiler's command: ``$CXX`` (which may hold arguments), else the first that is installed."""
    asked = shlex.split(os.environ.get("CXX", ""))
    if asked:
        if shutil.which(asked[0]) is None:
            raise BackendUnavailable(
                f"CXX={asked[0]} names no program; unset it or let it name a C++20 compiler"
            )
        return asked
    for candidate in _COMPILERS:
        if shutil.which(candidate) is not None:
            return [candidate]
    raise BackendUnavailable(
        f"no C++ compiler: looked for CXX and, on PATH, for {', '.join(_COMPILERS)}; this device is "
        "compiled on first use. Install one ('apt install g++' on Debian and Ubuntu, 'yum install gcc-c++' "
        "on Red Hat and openEuler) or set CXX"
    )


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BackendUnavailable("the native libraries are built against torch, which is not installed")
    return Path(spec.origin).parent


def _all_flags(torch_folder: Path | None, extra_flags: Sequence[str]) -> list[str]:
    return [*_FLAGS, f"-I{FOLDER}", *_include_flags(torch_folder), *extra_flags]


def _include_flags(torch_folder: Path | None) -> list[str]:
    if torch_folder is None:
        return []
    include = torch_folder / "include"
    # As system headers: their warnings are not ours.
    return ["-isystem", str(include), "-isystem", str(include / "torch" / "csrc" / "api" / "include")]


def _link_flags(torch_folder: Path | None) -> list[str]:
    if torch_folder is None:
        return []
    library = torch_folder / "lib"
    return [f"-L{library}", f"-Wl,-rpath,{library}", *_TORCH_LIBRARIES]


def _key(sources: Sequence[Path], compiler: Sequence[str], flags: Sequence[str], link_torch: bool) -> str:
    """Hash everything the library depends on."""
    digest = hashlib.sha256()
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BackendUnavailable(
            f"the C++ compiler '{shlex.join(compiler)}' does not run: {error}; let CXX name one that does"
        ) from error
    digest.update(version)
    digest.update("\0".join([*compiler, *flags]).encode())
    if link_torch:
        digest.update(importlib.metadata.version("torch").encode())
    included = {Path(flag[2:]) for flag in flags if flag.startswith("-I")}
    folders = {source.parent for source in sources} | included
    headers = [header for folder in sorted(folders) for header in sorted(folder.glob("*.h"))]
    for file in [*sources, *headers]:
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Generator[bool]:
    """Hold a lock of the operating system, which dies with its process; yield whether there is such a lock.

    Some network file systems have none. The atomic rename then lets two builds end well, at twice the work.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        except OSError as error:
            logger.info("no file lock in %s (%s)", path.parent, error.strerror)
            alone = False
        yield alone


def _build(
    library: Path,
    sources: Sequence[Path],
    compiler: list[str],
    flags: list[str],
    link_flags: list[str],
    joined: bool,
) -> None:
    logger.info("compiling %s from %d sources (first use)", library.name, len(sources))
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="partial-", dir=library.parent) as scratch:
        units = _join(sources, Path(scratch)) if joined else sources
        objects = [Path(scratch) / f"{index}-{unit.stem}.o" for index, unit in enumerate(units)]
        commands = [
            [*compiler, *flags, "-c", str(unit), "-o", str(result)]
            for unit, result in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(_run, commands))
        built = Path(scratch) / library.name
        # Flags come again at the end: libraries among them must follow the objects that need them.
        _run([*compiler, "-shared", *map(str, objects), "-o", str(built), *flags, *link_flags])
        built.replace(library)
    logger.info("compiled %s in %.0f s", library.name, time.monotonic() - start)


def _join(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Write in ``folder`` one file for each core that includes its share of ``sources``."""
    units: list[Path] = []
    for index in range(min(os.cpu_count() or 1, len(sources))):
        share = sources[index :: os.cpu_count() or 1]
        units.append(folder / f"unit-{index}.cpp")
        units[-1].write_text("".join(f'#include "{source}"\n' for source in share), encoding="utf-8")
    return units


def _run(command: list[str]) -> None:
    outcome = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if outcome.returncode == 0:
        return
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line or "undefined reference" in line] or lines
    shown = "\n  ".join(errors[:_MAX_ERROR_LINES]) or f"it ended with {outcome.returncode} and said nothing"
    if outcome.returncode < 0:
        shown = f"it was killed by signal {-outcome.returncode}; it needs about 1 GiB of memory\n  {shown}"
    raise BackendUnavailable(f"compiling failed: {shlex.join(command[:1])} ... {command[-1]}\n  {shown}")
