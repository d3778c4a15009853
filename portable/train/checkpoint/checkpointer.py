"""Saves while training goes on, and finds the newest state that is whole."""

from __future__ import annotations

import logging
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from portable.collective.torch_group import new_host_group
from portable.core.errors import ConfigError, StorageError
from portable.core.storage import explain_os_errors
from portable.core.text import format_bytes
from portable.data.source import BatchSource
from portable.parallel.runtime import Runtime
from portable.parallel.strategy import Strategy
from portable.train.checkpoint.folder import (
    CheckpointFolder,
    begin,
    commit,
    final_path,
    newest,
    partial_path,
    sweep,
)
from portable.train.checkpoint.slice import Slice, SliceLoadPlanner, SlicePlanner
from portable.train.checkpoint.state import (
    apply_host_state,
    load_host_state,
    on_host,
    save_host_state,
    shape_digest,
    tensor_state,
)
from portable.train.config import CheckpointConfig

logger = logging.getLogger(__name__)
_TIMEOUT_S = 3600.0  # what the slowest rank may take to write its share
# Saving from one process is what is meant; torch warns of it each time.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class Checkpointer:
    """The checkpoints of one run, in ``root``.

    ``save`` copies all tensors before it returns, so the next step may change them, and writes them in the
    background; one save is under way at a time. All ranks must call its methods together. Files of all ranks
    go to the same ``root``.
    """

    def __init__(
        self,
        root: Path,
        config: CheckpointConfig,
        runtime: Runtime,
        strategy: Strategy,
        source: BatchSource,
    ) -> None:
        self.root = root
        self.config = config
        self.runtime = runtime
        self.strategy = strategy
        self.source = source
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[CheckpointFolder | None] | None = None
        self._own_group = _separate_group(runtime)

    def save(self, step: int, counters: dict[str, float]) -> None:
        """Start saving the state after ``step`` steps.

        Raises: StorageError, also if the previous save failed.
        """
        self.wait()
        group = self.runtime.group
        if group.rank == 0:
            begin(self.root, step)
        group.barrier()
        partial = partial_path(self.root, step)
        save_host_state(partial / f"host-{group.rank}.pt", self.source, self.runtime.device, counters)
        slices = self._slices()
        copies = {
            name: Slice(on_host(found.data, self.runtime.device), found.whole_shape, found.offset)
            for name, found in slices.items()
        }
        self._pending = self._thread.submit(self._write, step, copies, self._digest(slices))

    def wait(self) -> None:
        """Wait until the save that is under way, if any, is complete on the disk.

        Raises: StorageError if it failed.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.result()

    def load(self) -> tuple[int, dict[str, float]] | None:
        """Restore the newest whole checkpoint; return its step and counters, or None if there is none.

        Raises: ConfigError if it belongs to another model or optimiser.
        """
        group = self.runtime.group
        found = None
        if group.rank == 0:
            sweep(self.root)
            found = newest(self.root)
        found = group.broadcast_object(found)
        if found is None:
            return None
        slices = self._slices()
        if found.shape_digest != self._digest(slices):
            raise ConfigError(
                f"checkpoint {found.path} belongs to a model or an optimiser of another shape than the one "
                "configured now; set model and optim as they were, or start in another folder "
                "(output_dir=PATH)"
            )
        targets = {
            name: Slice(on_host(found.data, self.runtime.device), found.whole_shape, found.offset)
            for name, found in slices.items()
        }
        load_tensors(
            targets,
            storage_reader=FileSystemReader(found.path),
            planner=SliceLoadPlanner(),
            process_group=self._own_group,
            no_dist=self._own_group is None,
        )
        self.strategy.load_state({name: target.data for name, target in targets.items()})
        same = found.world_size == group.size
        if not same:
            logger.warning(
                "checkpoint %s was written by %d processes and is read by %d: weights, optimiser and data "
                "position are exact, random streams start anew",
                found.path.name,
                found.world_size,
                group.size,
            )
        state = load_host_state(found.path / f"host-{group.rank if same else 0}.pt")
        apply_host_state(state, self.source, self.runtime.device, same_rank=same)
        logger.info("continuing from %s", found.path)
        return found.step, state["counters"]

    def close(self) -> None:
        """Finish the save that is under way and release the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown(wait=True)

    def _slices(self) -> dict[str, Slice]:
        return tensor_state(self.strategy, self.runtime.mesh)

    def _digest(self, slices: dict[str, Slice]) -> str:
        """Identify the model over all pipeline stages."""
        stages = self.runtime.mesh.group("pp")
        own = {name: found.whole_shape for name, found in slices.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for held in stages.all_gather_object(own):
            shapes |= held
        return shape_digest(shapes)

    def _write(self, step: int, slices: dict[str, Slice], digest: str) -> CheckpointFolder | None:
        """Write this rank's bytes, wait for those of all, then let the folder take its name. Runs in the
        background.
        """
        partial = partial_path(self.root, step)
        with explain_os_errors(final_path(self.root, step)):
            try:
                save_tensors(
                    slices,
                    storage_writer=FileSystemWriter(partial),
                    planner=SlicePlanner(),
                    process_group=self._own_group,
                    no_dist=self._own_group is None,
                )
            except CheckpointException as error:
                shutil.rmtree(partial, ignore_errors=True)  # what is left only fills the disk
                raise _as_storage_error(error, self.root) from error
            if self.runtime.group.rank != 0:
                return None
            return commit(self.root, step, digest, self.runtime.group.size, self.config.keep)


def _separate_group(runtime: Runtime) -> ProcessGroup | None:
    """Return a host group of its own for the background thread: its messages must not mix with the step's."""
    process_group = runtime.group.process_group
    if process_group is None:
        return None
    return new_host_group(_TIMEOUT_S, dist.get_process_group_ranks(process_group))


def _as_storage_error(error: CheckpointException, root: Path) -> StorageError:
    """Find the operating system's word among the errors that torch collected from all ranks."""
    for cause, _ in error.failures.values():
        if isinstance(cause, OSError):
            try:
                with explain_os_errors(root):
                    raise cause
            except StorageError as explained:
                return explained
            except OSError as other:
                return StorageError(
                    f"cannot write {root}: {other}; set another output folder (output_dir=PATH)"
                )
    causes = "; ".join(str(cause).splitlines()[0] for cause, _ in error.failures.values())
    free = format_bytes(shutil.disk_usage(root).free)
    return StorageError(
        f"cannot write a checkpoint into {root}, where {free} are free: {causes}; free some space or set "
        "another output folder (output_dir=PATH)"
    )
