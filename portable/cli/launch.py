"""Hand a verb to Hydra, and Hydra's config to the job."""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
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
from portable.core.errors import PortableError
from portable.device.select import detect_hardware

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)


class JobError(PortableError):
    """One job of several failed; it has told why itself."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


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

        setup_logging(rank=rank)
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        if hydra_config.mode is RunMode.MULTIRUN:
            overrides = list(hydra_config.overrides.task)
            if code := _run_in_child(verb, [*options, *overrides, f"hydra.run.dir={folder}"]):
                failures.append(JobError(f"the job {' '.join(overrides)} ended with exit code {code}", code))
            return str(folder)
        text = OmegaConf.to_yaml(config, resolve=True)
        try:
            result = run_job(
                verb, to_dataclass(config), text, folder, command=command, show_progress=sys.stderr.isatty()
            )
        except (
            PortableError
        ) as error:  # kept from Hydra, which would print a line of its own and drop the other jobs
            failures.append(error)
            return None
        return str(result) if result is not None else None

    rank = read_place().rank
    failures: list[PortableError] = []
    options = [word for word in arguments if not is_override(word) and word not in ("-m", "--multirun")]
    command = shlex.join(["portable", verb, *arguments])
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


def _run_in_child(verb: str, words: list[str]) -> int:
    """Run one job of several in a process of its own; returns its exit code.

    A process serves one kind of device: torch takes no new type after its first backward pass, and some
    variables must stand before it is imported. A job that dies takes no other with it, either.
    """
    return subprocess.run([sys.executable, "-m", "portable", verb, *words], check=False).returncode
