import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.redispatch.build import build_library
from portable.core.errors import BackendUnavailable

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "answer.h").write_text("#define ANSWER 42\n")
    file = tmp_path / "answer.cpp"
    file.write_text('#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n')
    return file


def compiler(tmp_path: Path, body: str) -> str:
    """A program that answers --version as a compiler does and else runs ``body``."""
    script = tmp_path / "fake-g++"
    script.write_text(
        f'#!/bin/sh\nif [ "$*" = "--version" ]; then echo fake 1.0; exit 0; fi\n'
        f'echo "$*" >> {tmp_path}/calls\n{body}\n'
    )
    script.chmod(0o755)
    return str(script)


WRITE_OUTPUT = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done'


def build(source: Path) -> Path:
    return build_library("answer", [source], link_torch=False)


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def test_what_is_built_can_be_loaded_and_is_built_once(source):
    library = build(source)
    assert ctypes.CDLL(str(library)).answer() == 42
    assert library.name == "libanswer.so"
    built = library.stat().st_mtime_ns
    assert build(source) == library
    assert library.stat().st_mtime_ns == built


def test_a_changed_source_header_flag_or_compiler_builds_anew(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITE_OUTPUT))
    first = build(source)
    source.write_text(source.read_text() + "// changed\n")
    second = build(source)
    (tmp_path / "answer.h").write_text("#define ANSWER 43\n")
    third = build(source)
    fourth = build_library("answer", [source], ["-DX=1"], link_torch=False)
    script = Path(os.environ["CXX"])
    script.write_text(script.read_text().replace("fake 1.0", "fake 2.0"))
    assert len({first, second, third, fourth, build(source)}) == 5


@pytest.fixture
def three(source, monkeypatch) -> list[Path]:
    """Three sources with a header, on a machine with two cores."""
    monkeypatch.setattr("backends.redispatch.build.os.cpu_count", lambda: 2)
    files = [source.with_name(f"{name}.cpp") for name in ("one", "two", "three")]
    for file in files:
        file.write_text(f'#include "answer.h"\nextern "C" int {file.stem}() {{ return ANSWER; }}\n')
    return files


def test_joined_sources_are_compiled_once_a_core(three, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITE_OUTPUT))
    build_library("three", three, link_torch=False, joined=True)
    assert calls(tmp_path) == 3, "two compilations and one link"


def test_joined_sources_are_all_in_the_library(three):
    library = ctypes.CDLL(str(build_library("three", three, link_torch=False, joined=True)))
    assert [library.one(), library.two(), library.three()] == [42] * 3


def test_an_error_in_a_joined_source_names_the_source(three):
    three[1].write_text("int broken( {\n")
    with pytest.raises(BackendUnavailable, match=r"two\.cpp:1:.*error"):
        build_library("three", three, link_torch=False, joined=True)


def test_the_torch_version_is_part_of_the_key(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, WRITE_OUTPUT))
    first = build_library("answer", [source])
    monkeypatch.setattr("backends.redispatch.build.importlib.metadata.version", lambda name: "9.9.9")
    assert build_library("answer", [source]) != first


def test_no_compiler_is_a_letter_that_names_the_package(source, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BackendUnavailable, match=r"g\+\+, c\+\+, clang\+\+.*apt install g\+\+.*yum install gcc-c"
    ):
        build(source)


def test_a_cxx_that_is_no_program_is_named(source, monkeypatch):
    monkeypatch.setenv("CXX", "nowhere-g++ -m64")
    with pytest.raises(BackendUnavailable, match="CXX=nowhere"):
        build(source)


def test_cxx_may_carry_arguments(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"env LANG=C {compiler(tmp_path, WRITE_OUTPUT)}")
    assert build(source).read_text() == "built\n"


def test_a_compile_error_shows_its_first_lines_and_leaves_nothing(source, tmp_path):
    source.write_text("int broken( {\n")
    with pytest.raises(BackendUnavailable, match=r"answer\.cpp:1:.*error"):
        build(source)
    left = [path.name for path in (tmp_path / "cache" / "native").glob("*/*")]
    assert left == ["lock"]
    source.write_text('extern "C" int answer() { return 1; }\n')
    assert build(source).exists()


def test_a_compiler_killed_for_memory_is_said(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, "kill -9 $$"))
    with pytest.raises(BackendUnavailable, match="killed by signal 9; it needs about 1 GiB"):
        build(source)


def test_a_cache_that_cannot_be_written_is_said(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendUnavailable, match="set PORTABLE_CACHE"):
        build(source)


def start_build(source: Path) -> subprocess.Popen:
    program = (
        "import sys; from pathlib import Path; from backends.redispatch.build import build_library;"
        "print(build_library('answer', [Path(sys.argv[1])], link_torch=False))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(source)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_several_processes_build_once(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 0.5\n{WRITE_OUTPUT}"))
    outputs = {process.communicate(timeout=60)[0] for process in [start_build(source) for _ in range(3)]}
    assert len(outputs) == 1
    assert calls(tmp_path) == 2, "one compilation and one link"


def test_a_killed_build_blocks_nobody(source, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, f"sleep 2\n{WRITE_OUTPUT}"))
    killed = start_build(source)
    deadline = time.monotonic() + 30
    while not (tmp_path / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    (partial,) = (tmp_path / "cache" / "native").glob("*/partial-*")
    library = build(source)
    assert library.read_text() == "built\n"
    assert not partial.exists()
