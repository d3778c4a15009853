"""Tensors to and from the disk through torch's distributed checkpoints, with errors in our words."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Generator
from pathlib import Path

from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from portable.core.errors import StorageError
from portable.core.storage import explain_os_errors
from portable.core.text import format_bytes
from portable.train.checkpoint.slice import Slice, SliceLoadPlanner, SlicePlanner

# Saving from one process is what is meant; torch warns of it each time.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def write_slices(folder: Path, slices: dict[str, Slice], group: ProcessGroup | None) -> None:
    """Write this rank's slices; a box that several ranks hold is written by one, the least busy.

    All ranks of ``group`` must call. Raises: StorageError, on all of them if one fails.
    """
    with _explained(folder, "write"):
        save(
            slices,
            storage_writer=FileSystemWriter(folder),
            planner=SlicePlanner(),
            process_group=group,
            no_dist=group is None,
        )


def read_slices(folder: Path, slices: dict[str, Slice], group: ProcessGroup | None) -> None:
    """Fill this rank's slices from whatever boxes the checkpoint is made of; the rest is as for writing."""
    with _explained(folder, "read"):
        load(
            slices,
            storage_reader=FileSystemReader(folder),
            planner=SliceLoadPlanner(),
            process_group=group,
            no_dist=group is None,
        )


def read_contents(folder: Path) -> Metadata:
    """Return torch's list of what a checkpoint holds."""
    with explain_os_errors(folder, "read"):
        return FileSystemReader(folder).read_metadata()


@contextlib.contextmanager
def _explained(folder: Path, action: str) -> Generator[None]:
    try:
        yield
    except CheckpointException as error:
        raise _as_storage_error(error, folder, action) from error


def _as_storage_error(error: CheckpointException, folder: Path, action: str) -> StorageError:
    """Find the operating system's word among the errors that torch collected from all ranks."""
    for cause, _ in error.failures.values():
        if isinstance(cause, OSError):
            try:
                with explain_os_errors(folder, action):
                    raise cause
            except StorageError as explained:
                return explained
            except OSError as other:
                return StorageError(
                    f"cannot {action} {folder}: {other}; set another output folder (output_dir=PATH)"
                )
    causes = "; ".join(str(cause).splitlines()[0] for cause, _ in error.failures.values())
    free = format_bytes(shutil.disk_usage(folder.parent).free)
    return StorageError(
        f"cannot {action} the checkpoint {folder}, where {free} are free: {causes}; free some space or set "
        "another output folder (output_dir=PATH)"
    )
