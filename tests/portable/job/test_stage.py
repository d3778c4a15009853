"""The table of stages, held against the functions it names and the code they import."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import portable
from portable.core.artefact import Artefact
from portable.core.errors import ConfigError
from portable.core.registry import load_target
from portable.core.workspace import Workspace
from portable.job import stage as module
from portable.job.stage import STAGE_VERBS, Stage, stage_of

ROOT = Path(portable.__file__).parent
TARGET = re.compile(r"portable(\.\w+)+:\w+")


class FakeMachine:
    """Counts which of its parts are asked for."""

    def __init__(self) -> None:
        self.built: list[str] = []

    @property
    def runtime(self) -> str:
        self.built.append("runtime")
        return "the runtime"

    @property
    def engine(self) -> str:
        self.built.append("engine")
        return "the engine"


def file_of(name: str) -> Path | None:
    """Return the file of a module of ours, or None if ``name`` is something inside a module."""
    path = ROOT.parent.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def names_in(file: Path) -> Iterator[str]:
    """Yield the modules that ``file`` imports, inside functions too, or names as a registry target."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{item.name}" for item in node.names)
        elif isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and TARGET.fullmatch(node.value):
            yield node.value.partition(":")[0]


def packages_used(start: str) -> set[str]:
    """Return the packages of ours that the module ``start`` reaches."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        file = file_of(name) if name.startswith("portable.") and name not in seen else None
        if file is not None:
            seen.add(name)
            waiting.extend(names_in(file))
    return {name.split(".")[1] for name in seen}


def test_the_chain_is_complete_and_in_order() -> None:
    assert STAGE_VERBS == ("data", "pretrain", "synth", "sft", "rl", "eval", "export")
    assert [stage_of(verb).verb for verb in STAGE_VERBS] == list(STAGE_VERBS)


@pytest.mark.parametrize("verb", STAGE_VERBS)
def test_the_function_takes_what_the_stage_hands_it(verb: str) -> None:
    stage = stage_of(verb)
    function = load_target(stage.target)
    assert function.__name__ == f"run_{verb}"
    assert list(inspect.signature(function).parameters) == ["config", *stage.needs, "workspace"]


@pytest.mark.parametrize("verb", STAGE_VERBS)
def test_the_key_covers_all_code_that_the_stage_reaches(verb: str) -> None:
    stage = stage_of(verb)
    used = packages_used(stage.target.partition(":")[0])
    assert "core" in used
    assert used <= set(stage.code)
    assert all((ROOT / package).is_dir() for package in stage.code)


def test_a_stage_builds_only_what_it_needs(tmp_path, monkeypatch) -> None:
    calls: list[tuple[object, ...]] = []
    made = Artefact("corpus", tmp_path, "d", {})

    def record(*arguments: object) -> Artefact:
        calls.append(arguments)
        return made

    monkeypatch.setattr(module, "load_target", {"toy:run": record}.__getitem__)
    workspace = Workspace(tmp_path)
    for needs in ((), ("runtime",), ("runtime", "engine"), ("engine",)):
        machine = FakeMachine()
        assert Stage("toy", "toy:run", needs, ("core",))("the config", machine, workspace) is made
        assert machine.built == list(needs)
        assert calls.pop() == ("the config", *(f"the {name}" for name in needs), workspace)


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("pretrian", "Did you mean 'pretrain'"),
        ("zzz", "Stages: data, pretrain, synth"),
        ("serve", "no stage is"),
    ],
)
def test_an_unknown_stage_is_named_with_its_neighbour(verb: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stage_of(verb)
