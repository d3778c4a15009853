"""A recipe: stages joined by artefacts.

Each stage works in ``store/<verb>-<key>``, where the key is the hash of all that its result depends on. A
sealed folder is the result; an unsealed one is work that was cut short, and the stage continues in it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portable.core.artefact import Artefact, open_artefact
from portable.core.errors import ArtefactError, ConfigError
from portable.core.storage import read_json, write_json
from portable.core.text import format_bytes, format_seconds
from portable.core.workspace import Workspace
from portable.job.key import plain, references, resolve, stage_key
from portable.job.lock import exclusive
from portable.job.machine import Machine
from portable.job.meter import Meter
from portable.job.schema import RunJob
from portable.job.sinks import open_sinks
from portable.job.stage import STAGE_VERBS, Stage, stage_of

logger = logging.getLogger(__name__)
_COST = (
    "cost.json"  # beside the seal, outside the payload: the same result may have cost another time elsewhere
)


@dataclass(frozen=True, slots=True)
class StageResult:
    """One row of a run's manifest."""

    name: str
    artefact: Artefact
    key: str
    reused: bool
    time_s: float
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the row as it stands in ``manifest.json``."""
        return {
            "name": self.name,
            "verb": self.name,
            "artefact": str(self.artefact.path),
            "digest": self.artefact.digest,
            "key": self.key,
            "reused": self.reused,
            "time_s": self.time_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "summary": self.artefact.summary,
        }


def check_recipe(job: RunJob) -> list[tuple[Stage, Any]]:  # Any: each stage's own config
    """Return the stages with their configs, in order.

    Raises: ConfigError for an empty recipe, an unknown stage, a stage without settings, or an input that no
    earlier stage makes.
    """
    if not job.stages:
        raise ConfigError(
            f"recipe {job.name} has no stages; list some of {', '.join(STAGE_VERBS)} under stages"
        )
    configs: Mapping[str, Any] = {  # Any: each stage's own config
        "data": job.data,
        "pretrain": job.pretrain,
        "synth": job.synth,
        "sft": job.sft,
        "rl": job.rl,
        "eval": job.eval,
        "export": job.export,
    }
    plan: list[tuple[Stage, Any]] = []  # Any: each stage's own config
    for name in job.stages:
        stage, config = stage_of(name), configs.get(name)
        if config is None:
            raise ConfigError(
                f"recipe {job.name} lists the stage '{name}' but has no settings for it; "
                f"add /stage/{name}@{name}"
            )
        earlier = [before.verb for before, _ in plan]
        for wanted in references(config):
            if wanted not in earlier:
                raise ConfigError(
                    f"recipe {job.name}: stage '{name}' needs '@{wanted}', which is not made before it; "
                    f"earlier stages: {', '.join(earlier) or 'none'}"
                )
        plan.append((stage, config))
    return plan


def run_recipe(job: RunJob, machine: Machine, *, show_progress: bool = False) -> list[StageResult]:
    """Run what is not yet done, reuse what is; returns the stages in order."""
    results: list[StageResult] = []
    plan = check_recipe(job)
    for number, (stage, config) in enumerate(plan, start=1):
        made = {result.name: result.artefact for result in results}
        key = stage_key(stage, config, job, made)
        folder = Path(job.store) / f"{stage.verb}-{key[:16]}"
        with exclusive(folder):
            finished = _finished(folder)
            if finished is None:
                logger.info("[%d/%d] %s", number, len(plan), stage.verb)
                finished = _make(stage, resolve(config, made), machine, folder, show_progress)
                reused = False
            else:
                logger.info("[%d/%d] %s: already made, %s", number, len(plan), stage.verb, folder)
                reused = True
        cost = read_json(folder / _COST)
        results.append(
            StageResult(stage.verb, finished, key, reused, cost["time_s"], cost["peak_memory_bytes"])
        )
        if not reused:
            took = format_seconds(cost["time_s"])
            logger.info(
                "%s took %s, peak memory %s", stage.verb, took, format_bytes(cost["peak_memory_bytes"])
            )
    return results


def _make(
    stage: Stage,
    config: Any,  # Any: the stage's own config
    machine: Machine,
    folder: Path,
    show_progress: bool,
) -> Artefact:
    spent = (
        read_json(folder / _COST) if (folder / _COST).is_file() else {"time_s": 0.0, "peak_memory_bytes": 0}
    )
    sinks = open_sinks(folder, machine.config.metrics, plain(config))
    meter = Meter()
    try:
        with meter:
            artefact = stage(config, machine, Workspace(folder, sinks, show_progress))
            machine.end_stage(folder)
    finally:
        sinks.close()
        total = {
            "time_s": spent["time_s"] + meter.time_s,
            "peak_memory_bytes": max(spent["peak_memory_bytes"], meter.peak_memory_bytes),
        }
        write_json(folder / _COST, total)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # the artefact replaces them
    return artefact


def _finished(folder: Path) -> Artefact | None:
    if not (folder / "artefact.json").is_file() or not (folder / _COST).is_file():
        return None
    try:
        return open_artefact(folder, verify=True)
    except ArtefactError as error:
        logger.warning("%s; making it again", error)
        shutil.rmtree(folder)
        return None
