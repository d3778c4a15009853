"""The verbs that make artefacts: what each calls, and which code its result depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from portable.core.artefact import Artefact
from portable.core.errors import ConfigError, did_you_mean
from portable.core.registry import load_target
from portable.core.workspace import Workspace

if TYPE_CHECKING:
    from portable.job.machine import Machine

_BASE = ("core", "device", "collective", "hardware", "kernel", "parallel", "model", "data")


@dataclass(frozen=True, slots=True)
class Stage:
    """A verb and the function behind it.

    ``needs`` lists what ``target`` takes between its config and its workspace; ``code`` the packages it
    depends on.
    """

    verb: str
    target: str
    needs: tuple[str, ...]
    code: tuple[str, ...]

    def __call__(
        self,
        config: Any,  # Any: the stage's own config
        machine: Machine,
        workspace: Workspace,
    ) -> Artefact:
        """Run the stage in ``workspace``, building only the parts of the machine that it needs."""
        function: Callable[..., Artefact] = load_target(self.target)
        parts = {"runtime": lambda: machine.runtime, "engine": lambda: machine.engine}
        return function(config, *(parts[name]() for name in self.needs), workspace)


_STAGES = {
    stage.verb: stage
    for stage in (
        Stage("data", "portable.data.run:run_data", (), ("core", "data", "model")),
        Stage("pretrain", "portable.train.pretrain:run_pretrain", ("runtime",), (*_BASE, "train")),
        Stage("synth", "portable.synth.run:run_synth", (), ("core", "data", "synth")),
        Stage(
            "sft",
            "portable.sft.run:run_sft",
            ("runtime", "engine"),
            (*_BASE, "train", "engine", "eval", "sft"),
        ),
        Stage(
            "rl", "portable.rl.run:run_rl", ("runtime", "engine"), (*_BASE, "train", "engine", "eval", "rl")
        ),
        Stage(
            "eval", "portable.eval.run:run_eval", ("runtime", "engine"), (*_BASE, "train", "engine", "eval")
        ),
        Stage("export", "portable.model.export:run_export", (), ("core", "kernel", "model")),
    )
}
STAGE_VERBS = tuple(_STAGES)


def check_ranks(verb: str, num_ranks: int) -> None:
    """Check that ``verb`` can be divided among ``num_ranks``. Raises: ConfigError with those that can."""
    divisible = [name for name, stage in _STAGES.items() if "runtime" in stage.needs]
    if verb not in divisible and num_ranks > 1:
        raise ConfigError(
            f"portable {verb} runs on one process, and the launcher would start {num_ranks}; leave the "
            f"launcher out, or give it to one of: {', '.join(divisible)}"
        )


def stage_of(verb: str) -> Stage:
    """Return the stage behind ``verb``. Raises: ConfigError with the nearest known verb."""
    if verb not in _STAGES:
        raise ConfigError(
            f"no stage is called '{verb}'.{did_you_mean(verb, _STAGES)} Stages: {', '.join(_STAGES)}"
        )
    return _STAGES[verb]
