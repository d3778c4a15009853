"""Slurm's commands for one machine: ``sbatch`` starts a script, ``srun`` a process for every task of it.

Each command is a link to this file; the folder it is in keeps the scripts that were submitted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

JOB = "4242"


def install(folder: Path) -> None:
    """Put the commands into ``folder``, for PATH."""
    folder.mkdir(parents=True)
    text = Path(__file__).read_text()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)


def sbatch(script: str) -> None:
    """Keep the script, and run it unless a file ``closed`` says that the queue takes none."""
    own = Path(sys.argv[0]).parent
    text = Path(script).read_text()
    (own / "submitted.sh").write_text(text)
    if (own / "closed").exists():
        sys.exit("sbatch: error: invalid partition specified")
    tasks = [int(re.search(rf"--{key}=(\d+)", text)[1]) for key in ("nodes", "ntasks-per-node")]
    job = {"SLURM_JOB_ID": JOB, "SLURM_NTASKS": str(tasks[0] * tasks[1]), "SLURM_NODELIST": "localhost"}
    # Who submits reads what we write to its end, which must not be the end of the job.
    subprocess.Popen(
        ["bash", script],
        env={**os.environ, **job},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(f"Submitted batch job {JOB}")


def srun(*words: str) -> None:
    """Run the command, which begins at the first word that ends with ``python``, once for every task."""
    begin = next(place for place, word in enumerate(words) if re.search(r"python[\d.]*$", word))
    options = dict(zip(words[1:begin:2], words[2:begin:2], strict=True))
    number = int(os.environ["SLURM_NTASKS"])
    tasks = []
    for rank in range(number):
        files = [
            options[name].replace("%j", JOB).replace("%t", str(rank)) for name in ("--output", "--error")
        ]
        task = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_STEP_NUM_TASKS": str(number),
        }
        while not Path(files[0]).parent.is_dir():  # made once the number of the job is known
            time.sleep(0.05)
        output, error = (Path(file).open("a") for file in files)  # noqa: SIM115 - the tasks have them
        tasks.append(subprocess.Popen(words[begin:], env={**os.environ, **task}, stdout=output, stderr=error))
    sys.exit(max(task.wait() for task in tasks))


def sacct(*_: str) -> None:
    """Say that the job runs: its results tell when it is done."""
    print(f"JobID|State|NodeList\n{JOB}|RUNNING|localhost")


def scontrol(*words: str) -> None:
    """Keep what was asked."""
    with (Path(sys.argv[0]).parent / "scontrol.log").open("a") as log:
        log.write(" ".join(words) + "\n")


if __name__ == "__main__":
    globals()[Path(sys.argv[0]).name](*sys.argv[1:])
