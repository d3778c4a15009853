"""What a task is: a question put to a model, with the same material for every model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from portable.core.registry import Registry
from portable.engine.build import build_engine
from portable.engine.config import EngineConfig
from portable.engine.protocol import Engine
from portable.eval.config import EvalConfig
from portable.eval.interval import Estimate
from portable.parallel.runtime import Runtime


@dataclass(frozen=True)  # no slots: cached_property keeps the engine in the instance
class Subject:
    """A model under test. Its engine is built when first asked for, and shared by the tasks. ``scratch`` is a
    folder for what a task needs while it runs.
    """

    name: str
    path: Path
    runtime: Runtime
    engine_config: EngineConfig
    scratch: Path

    @cached_property
    def engine(self) -> Engine:
        """The engine that answers for this model."""
        return build_engine(self.path, self.engine_config, self.runtime)


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with the answer that was wanted and the one that came."""

    prompt: str
    reference: str
    answer: str


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one model scored. ``samples`` are of the same prompts, in the same order, for every model."""

    estimate: Estimate
    samples: list[Sample] = field(default_factory=list)


class Task(Protocol):
    """One measurement. Its material is read and drawn once, in the constructor."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...

    @property
    def title(self) -> str:
        """What a table calls it."""
        ...

    @property
    def unit(self) -> str:
        """What the value counts."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Which way is up."""
        ...

    def run(self, subject: Subject) -> TaskResult:
        """Measure one model."""
        ...


class TaskFactory(Protocol):
    """What the registry names."""

    def __call__(self, config: EvalConfig) -> Task:
        """Read the task's material. Raises: a UserError if it is missing."""
        ...


TASKS = Registry(
    "task",
    {
        "bits_per_byte": "portable.eval.task.bits_per_byte:BitsPerByte",
        "doc_qa": "portable.eval.task.doc_qa:DocQa",
        "arithmetic": "portable.eval.task.arithmetic:Arithmetic",
    },
    entry_group="portable.tasks",
)
