"""Hand a verb to Hydra, and Hydra's config to the job."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from portable.collective.place import read_place
from portable.config.alias import resolve_aliases
from portable.config.explain import explain, explain_null
from portable.config.load import compose, to_dataclass
from portable.config.override import is_override, options_first, resolve_auto
from portable.config.search_path import conf_dir, join_search_path
from portable.config.store import register_schemas
from portable.core.errors import BackendUnavailable, ConfigError, PortableError
from portable.core.registry import blame
from portable.device.select import detect_hardware
from portable.launcher.child import run_child
from portable.launcher.command import LAUNCHERS, Launcher, RankCommand, in_folder, without_launcher
from portable.launcher.failure import RankError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from portable.job.schema import MachineConfig

logger = logging.getLogger(__name__)


def launch(verb: str, arguments: list[str]) -> int:
    """Run ``verb`` under Hydra with the user's ``arguments``; one or many jobs (``-m``)."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def task(config: DictConfig) -> str | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from portable.core.log import setup_logging
        from portable.job.run import run_job
        from portable.job.stage import check_ranks

        register_schemas()  # a job that was submitted begins here, in a process of its own
        setup_logging(rank=read_place().rank)
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        overrides = list(hydra_config.overrides.task)
        try:
            job = to_dataclass(config)
            check_ranks(verb, job.launcher.num_ranks)
            if hydra_config.mode is RunMode.MULTIRUN:
                return _run_one_of_several(verb, job, options, overrides, folder)
            if job.launcher.submits and not job.dry_run:
                raise ConfigError(
                    f"launcher={job.launcher.name} submits jobs, one for each combination; add -m"
                )
            if job.launcher.starts_ranks and not job.dry_run:
                return _run_ranks(verb, job, options, overrides, folder)
            text = OmegaConf.to_yaml(config, resolve=True)
            result = run_job(verb, job, text, folder, command=command, show_progress=sys.stderr.isatty())
        except PortableError as error:
            if os.getpid() != own_pid:  # Hydra carries it from the submitted job to us
                raise
            # Kept from Hydra, which would print a line of its own and drop the other jobs.
            failures.append(error)
            return None
        return str(result) if result is not None else None

    own_pid = os.getpid()
    failures: list[PortableError] = []
    options = [word for word in arguments if not is_override(word) and word not in ("-m", "--multirun")]
    command = shlex.join(["portable", verb, *arguments])
    _check_scheduler(arguments)
    register_schemas()
    join_search_path()
    wants_help = any(word in ("-h", "--help") for word in arguments)
    words = (
        arguments if wants_help else options_first(resolve_auto(resolve_aliases(arguments), detect_hardware))
    )
    sys.argv = [f"portable {verb}", *words]
    # Hydra prints and exits on errors unless told to raise them; the user's --debug decides what is shown.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, compose(verb)) from error
    except AssertionError as error:
        raise explain_null(arguments, compose(verb)) from error
    for error in failures[1:]:
        logger.error("another job of this run failed: %s", error)
    if failures:
        raise failures[0]
    return 0


def _run_one_of_several(
    verb: str, job: MachineConfig, options: list[str], overrides: list[str], folder: Path
) -> str:
    words = without_launcher(overrides) if job.launcher.submits else overrides
    try:
        run_child([verb, *options, *words, f"hydra.run.dir={folder}"], folder, read_place().rank)
    except RankError as error:
        raise RankError(f"the job {' '.join(overrides)}: {error}", error.exit_code) from error
    return str(folder)


def _run_ranks(verb: str, job: MachineConfig, options: list[str], overrides: list[str], folder: Path) -> str:
    """Start the ranks of a stage and wait for their end. Raises: RankError; ConfigError inside a rank."""
    place = read_place()
    if place.world_size > 1:
        raise ConfigError(
            f"this process is rank {place.rank} of {place.world_size}, and launcher={job.launcher.name} "
            "would start ranks of its own; leave that to one of the two"
        )
    folder = (Path(job.output_dir) if job.output_dir is not None else folder).absolute()
    words = [verb, *options, *without_launcher(overrides), *in_folder(folder)]
    with blame(f"launcher={job.launcher.name} does not start; install the extra of that name"):
        launcher: Launcher = LAUNCHERS.get(job.launcher.name)
    launcher(RankCommand(tuple(words), job.hardware.resource), job.launcher, folder)
    return str(folder)


def _check_scheduler(arguments: list[str]) -> None:
    """Refuse what submitit would only find out with a traceback. Raises: BackendUnavailable."""
    submits = "launcher=slurm" in arguments and not {"-m", "--multirun"}.isdisjoint(arguments)
    if submits and shutil.which("srun") is None:
        raise BackendUnavailable(
            "launcher=slurm needs Slurm's commands (sbatch, srun), which are not on this machine; go to a "
            "login node, or try the job out here with launcher=slurm_local"
        )
