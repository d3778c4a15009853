"""What every verb does around its stage.

Check the machine, open a folder, record the circumstances, run, report.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from portable.collective.place import read_place
from portable.core.errors import ConfigError, StorageError
from portable.core.log import log_to_file, stop_logging_to
from portable.core.registry import load_target
from portable.core.storage import explain_os_errors, read_json, write_json, write_text
from portable.core.workspace import Workspace
from portable.device.select import load_backend
from portable.job.change import changed_settings, may_change
from portable.job.choice import describe_choice
from portable.job.environment import record_environment
from portable.job.inputs import require_inputs
from portable.job.machine import Machine, require_hardware
from portable.job.recipe import StageResult, check_recipe, run_recipe
from portable.job.report.build import build_report
from portable.job.report.render import render
from portable.job.schema import MachineConfig, RunJob
from portable.job.sinks import open_sinks
from portable.job.stage import stage_of

logger = logging.getLogger(__name__)
_INTERACTIVE = {"serve": "portable.engine.serve:run_serve", "chat": "portable.engine.chat:run_chat"}


def run_job(
    verb: str,
    job: MachineConfig,
    config_text: str,
    folder: Path,
    *,
    command: str = "",
    show_progress: bool = False,
) -> Path | None:
    """Run ``verb`` and return the folder of its result.

    A dry run and the verbs that leave nothing return None. ``config_text`` is the resolved config as YAML and
    ``command`` what the user typed; both are kept beside the result.
    """
    if job.dry_run:
        if isinstance(job, RunJob):
            check_recipe(job)
        logger.info("dry run: nothing is computed\n%s", describe_choice(verb, job))
        return None
    require_hardware(job.hardware)
    require_inputs(verb, job)
    environment = load_backend(job.hardware.backend).environment(deterministic=job.deterministic)
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    machine = Machine(job)
    if verb in _INTERACTIVE:
        load_target(_INTERACTIVE[verb])(job, machine.runtime, machine.engine)
        return None
    place = read_place()
    if job.output_dir is not None:
        folder = Path(job.output_dir)
    elif place.rank > 0:  # each rank has named a folder by its own clock; the first one's counts
        folder = machine.runtime.group.broadcast_object(folder)
    _claim(folder, config_text)
    handler = log_to_file(folder / "run.log")
    try:
        if job.output_dir is None and place.rank == 0 and place.world_size > 1:
            machine.runtime.group.broadcast_object(folder)
        environment = record_environment(folder, job.hardware.backend, command)
        if isinstance(job, RunJob):
            return _run_recipe(job, machine, folder, config_text, environment, show_progress)
        sinks = open_sinks(folder, job.metrics, yaml.safe_load(config_text) or {})
        try:
            artefact = stage_of(verb)(job, machine, Workspace(folder, sinks, show_progress))
            machine.end_stage(folder)
        finally:
            sinks.close()
        logger.info("%s: %s in %s", verb, artefact.kind, artefact.path)
        return folder
    finally:
        stop_logging_to(handler)


def _claim(folder: Path, config_text: str) -> None:
    """Make ``folder`` ours, or continue in it if the same config made it."""
    kept = folder / "config.yaml"
    with explain_os_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # what /proc and other read-only trees of the kernel answer
            raise StorageError(
                f"cannot write {folder}: no folder can be made there; set another output_dir=PATH"
            ) from error
    if kept.is_file():
        changed = changed_settings(kept.read_text(encoding="utf-8"), config_text)
        decisive = [name for name in changed if not may_change(name)]
        if decisive:
            raise ConfigError(
                f"output_dir={folder} holds a run with other settings ({', '.join(decisive)}; see its "
                "config.yaml); name another folder, or repeat the command with the same settings to continue "
                "that run. Hardware, layout and strategy may change"
            )
        if changed:
            logger.info("continuing in %s with other %s", folder, ", ".join(changed))
    write_text(kept, config_text)


def _run_recipe(
    job: RunJob,
    machine: Machine,
    folder: Path,
    config_text: str,
    environment: dict[str, Any],  # Any: JSON values
    show_progress: bool,
) -> Path:
    started = datetime.now(UTC)
    results = run_recipe(job, machine, show_progress=show_progress)
    manifest = {
        "recipe": job.name,
        "command": environment["command"],
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": environment["git_revision"],
        "versions": environment["versions"],
        "device": environment["device"],
        "config": config_text,
        "stages": [result.to_json() for result in results],
    }
    write_json(folder / "manifest.json", manifest)
    _link_stages(folder, results)
    report = build_report(folder, read_json(folder / "manifest.json"))
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", render(report))
    logger.info("report: %s", folder / "report.html")
    return folder


def _link_stages(folder: Path, results: list[StageResult]) -> None:
    """Put a link to each artefact into the run's folder, and keep ``latest`` beside it pointing here."""
    links = [(folder / result.name, result.artefact.path.resolve()) for result in results]
    for link, target in [*links, (folder.parent / "latest", folder.resolve())]:
        with explain_os_errors(link):
            temporary = link.with_name(f".{link.name}.new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target, target_is_directory=True)
            temporary.replace(link)
