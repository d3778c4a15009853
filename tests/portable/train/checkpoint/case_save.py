"""Two ranks, one of which fails while the checkpoint of step 6 is being written."""

from __future__ import annotations

import errno
import logging
import os
import signal
from pathlib import Path
from typing import Any

from portable.core.errors import PortableError
from portable.train.checkpoint import checkpointer, transfer
from tests.portable.train import case_train
from tests.portable.train.support import weights_hash

STEPS, FAULTY_STEP = 12, 6


def train(folder: str, fault: str = "") -> dict[str, Any]:
    """Train to the end, or to the error; return it, what was logged, and where the run began and ended."""
    told: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("portable")
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    trainer = case_train.build(Path(folder), "ddp", steps=STEPS)
    if trainer.runtime.group.rank == 1 and fault:
        {"dies": _die, "full": _fill_disk}[fault]()
    trainer.resume()
    began, error = trainer.step, ""
    try:
        trainer.fit()
    except PortableError as caught:
        error = f"{type(caught).__name__}: {caught}"
    else:
        weights = weights_hash(trainer.model.whole_weights())
        trainer.runtime.group.close()
    report = {"error": error, "told": told, "began": began, "step": trainer.step}
    return report if error else report | {"hash": weights}


def _die() -> None:
    """Be killed when this rank's files of the step are written, but not yet those of all sealed."""
    real = checkpointer.fingerprints

    def fingerprints(place: Path, rank: int) -> Any:
        if place.name.endswith(f"{FAULTY_STEP:08d}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(place, rank)

    checkpointer.fingerprints = fingerprints


def _fill_disk() -> None:
    """Let the disk under this rank be full from the step on."""
    real = transfer.FileSystemWriter.write_data

    def write_data(self: Any, *arguments: Any, **named: Any) -> Any:
        if str(self.path).endswith(f"{FAULTY_STEP:08d}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **named)

    transfer.FileSystemWriter.write_data = write_data
