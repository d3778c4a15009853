"""Saves while training goes on, and finds the newest state that is whole."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed import ProcessGroup

from portable.collective.torch_group import new_host_group
from portable.core.errors import ConfigError, StorageError
from portable.core.storage import explain_os_errors
from portable.data.source import BatchSource
from portable.parallel.runtime import Runtime
from portable.parallel.spread_model import SpreadModel
from portable.train.checkpoint.folder import (
    begin,
    candidates,
    commit,
    final_path,
    fingerprints,
    inspect,
    partial_path,
    sweep,
)
from portable.train.checkpoint.manifest import Made, json_part, read_manifest
from portable.train.checkpoint.mismatch import Form, Forms, converted, shape_differences, stored_forms
from portable.train.checkpoint.slice import Slice
from portable.train.checkpoint.staging import Staging
from portable.train.checkpoint.state import (
    BUFFER,
    MODEL,
    apply_host_state,
    load_host_state,
    load_tensor_state,
    pack_host_state,
    tensor_state,
    write_host_state,
)
from portable.train.checkpoint.transfer import read_contents, read_slices, write_slices
from portable.train.config import CheckpointConfig

logger = logging.getLogger(__name__)
_TIMEOUT_S = 3600.0  # what the slowest rank may take to write its share
Result = TypeVar("Result")


class Checkpointer:
    """The checkpoints of one run, in ``root``.

    ``save`` copies all tensors before it returns, so the next step may change them, and writes them in the
    background; one save is under way at a time. All ranks must call its methods together. Files of all ranks
    go to the same ``root``.
    """

    def __init__(self, root: Path, config: CheckpointConfig, model: SpreadModel, source: BatchSource) -> None:
        self.root = root
        self.config = config
        self.model = model
        self.source = source
        self.runtime: Runtime = model.runtime
        self._staging = Staging(self.runtime.device)
        self._pending: Future[None] | None = None
        self._pending_step = 0
        self._own_group = _separate_group(self.runtime)

    def save(self, step: int, counters: dict[str, Any]) -> None:  # Any: numbers and lists of them
        """Start saving the state after ``step`` steps.

        Raises: StorageError, also if the previous save failed.
        """
        self.wait()
        copies = self._staging.copy(tensor_state(self.model))
        host_state = pack_host_state(self.source, self.runtime.device, counters)
        made = Made(
            step=step,
            strategy=self.runtime.strategy,
            world_size=self.runtime.group.size,
            layout=asdict(self.runtime.mesh.layout),
            data=json_part(self.source.state_dict()),
        )
        self._pending_step = step
        self._pending = _in_background(lambda: self._write(made, copies, host_state))

    def poll(self) -> None:
        """Let a save that failed in the background stop the run now, not at the next save.

        Raises: StorageError, on all ranks in the same step.
        """
        if self._pending is not None:
            group = self.runtime.group
            if group.sum_scalar(float(self._pending.done())) == group.size:
                self.wait()

    def wait(self) -> None:
        """Wait until the save that is under way, if any, is complete on the disk.

        Raises: StorageError if it failed; CollectiveError if a rank died in it.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self.runtime.group.naming_ranks(f"writing the checkpoint of step {self._pending_step}"):
            pending.result()

    def load(self) -> tuple[int, dict[str, Any]] | None:  # Any: as for save
        """Restore the newest whole checkpoint; return its step and counters, or None if there is none.

        Raises: ConfigError, naming the first differences, if it belongs to another model or optimiser.
        """
        self.wait()
        if self.runtime.group.rank == 0:
            sweep(self.root)
        found = self._newest(self.root)
        if found is None:
            return None
        path, made = found
        own = tensor_state(self.model)
        targets = self._staging.buffers(own)
        self._check_fits(
            path, own, "set model and optim as they were, or start in another folder (output_dir="
        )
        read_slices(path, targets, self._own_group)
        load_tensor_state(self.model, {name: target.data for name, target in targets.items()})
        counters = self._restore_host(path, made)
        logger.info("continuing from %s", path)
        return made.step, counters

    def start_from(self, place: Path) -> None:
        """Take the weights, and nothing else, of a checkpoint that any layout wrote. ``place`` is its folder,
        the folder of several, or the output folder of a run; of several, the newest whole one is taken.

        Raises: ConfigError if there is none, or it belongs to another model.
        """
        found = self._newest(place) or self._newest(place / self.root.name)
        if found is None:
            raise ConfigError(
                f"checkpoint.initial_load_path={place} holds no whole checkpoint; name a folder such as "
                f"OUTPUT_DIR/{self.root.name}/step-00000000, or set checkpoint.initial_load_in_hf=true for a "
                "model folder with safetensors files"
            )
        path, _ = found
        own = tensor_state(self.model)
        held = self._staging.copy(own)
        weights = {name: part for name, part in held.items() if name.startswith((MODEL, BUFFER))}
        self._check_fits(path, weights, "set model as it was there, or name another checkpoint")
        read_slices(path, weights, self._own_group)
        load_tensor_state(self.model, {name: target.data for name, target in held.items()})
        logger.info("starting from the weights of %s", path)

    def close(self) -> None:
        """Finish the save that is under way."""
        self.wait()

    def abandon(self) -> None:
        """Let go of the save that is under way: it waits for a rank that is gone, and may do so for long."""
        self._pending = None

    def _newest(self, place: Path) -> tuple[Path, Made] | None:
        """Return the newest checkpoint that is whole; each newer one that is not is reported and passed over.

        The ranks share the work of hashing.
        """
        group = self.runtime.group
        paths: list[Path] | None = None
        if group.rank == 0:
            paths = [place] if (place / ".metadata").is_file() else candidates(place)
        for path in group.broadcast_object(paths):
            flaws = [flaw for flaw in group.all_gather_object(inspect(path, group.rank, group.size)) if flaw]
            if not flaws:
                return path, group.broadcast_object(read_manifest(path)[0] if group.rank == 0 else None)
            if group.rank == 0:
                logger.warning("checkpoint %s is not whole (%s); looking for an older one", path, flaws[0])
        return None

    def _check_fits(self, path: Path, own: dict[str, Slice], remedy: str) -> None:
        """Compare the names and shapes of all pipeline stages with the checkpoint's."""
        prefixes = tuple({name.partition("/")[0] + "/" for name in own})
        forms = {name: Form(found.whole_shape, found.data.dtype) for name, found in own.items()}
        wanted: dict[str, Form] = {}
        for held in self.runtime.mesh.group("pp").all_gather_object(forms):
            wanted |= held
        differences = ""
        if self.runtime.group.rank == 0:
            found = stored_forms(read_contents(path))
            stored: Forms = {name: form for name, form in found.items() if name.startswith(prefixes)}
            differences = shape_differences(stored, wanted)
            changed = converted(stored, wanted)
            if changed and not differences:
                name = changed[0]
                logger.warning(
                    "checkpoint %s holds %d tensors in another number format, e.g. %s in %s, here %s; their "
                    "values are converted",
                    *(path, len(changed), name, stored[name].dtype, wanted[name].dtype),
                )
        differences = self.runtime.group.broadcast_object(differences)
        if differences:
            raise ConfigError(
                f"checkpoint {path} belongs to another model or optimiser than the one configured now: "
                f"{differences}; {remedy}"
            )

    def _restore_host(self, path: Path, made: Made) -> dict[str, Any]:  # Any: as for save
        same = made.layout == asdict(self.runtime.mesh.layout)
        if not same and self.runtime.group.rank == 0:
            logger.warning(
                "checkpoint %s was written by %d processes in another layout than that of these %d: weights, "
                "optimiser and data position are exact, random streams start anew",
                *(path.name, made.world_size, self.runtime.group.size),
            )
        state = load_host_state(path / f"host-{self.runtime.group.rank if same else 0}.pt")
        apply_host_state(state, self.source, self.runtime.device, same_layout=same)
        return state["counters"]

    def _write(self, made: Made, slices: dict[str, Slice], host_state: bytes) -> None:
        """Write this rank's bytes, wait for those of all, then let the folder take its name. Runs in the
        background.
        """
        partial, rank = partial_path(self.root, made.step), self.runtime.group.rank

        def write_own() -> dict[str, dict[str, Any]]:  # Any: JSON values
            write_slices(partial, slices, self._own_group)
            write_host_state(partial / f"host-{rank}.pt", host_state)
            return fingerprints(partial, rank)

        try:
            self._together(lambda: begin(self.root, made.step) if rank == 0 else None)
            files: dict[str, dict[str, Any]] = {}  # Any: JSON values
            for held in self._together(write_own):
                files |= held
            self._together(lambda: commit(self.root, made, files, self.config.keep) if rank == 0 else None)
        except StorageError:
            if rank == 0:
                shutil.rmtree(partial, ignore_errors=True)  # what is left only fills the disk
            raise

    def _together(self, act: Callable[[], Result]) -> list[Result]:
        """Let every rank act; return all results. Raises: StorageError on all ranks if it failed on one."""
        outcome: Result | StorageError
        try:
            with explain_os_errors(final_path(self.root, self._pending_step)):
                outcome = act()
        except OSError as error:
            outcome = StorageError(f"cannot write into {self.root}: {error}; set another output_dir=PATH")
        except StorageError as error:
            outcome = error
        outcomes: list[Any] = [outcome]  # Any: results, or errors in their place
        if self._own_group is not None:
            outcomes = [None] * dist.get_world_size(self._own_group)
            dist.all_gather_object(outcomes, outcome, group=self._own_group)
        for found in outcomes:
            if isinstance(found, StorageError):
                raise found
        return outcomes


class _Outcome:
    """Puts what a block does into ``future``: its end, or the error that leaves it."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(error)
        return True


def _in_background(act: Callable[[], None]) -> Future[None]:
    """Start ``act`` in a thread that, unlike an executor's, does not keep a process that ends."""
    future: Future[None] = Future()

    def run() -> None:
        with _Outcome(future):
            act()

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def _separate_group(runtime: Runtime) -> ProcessGroup | None:
    """Return a host group of its own for the background thread: its messages must not mix with the step's."""
    process_group = runtime.group.process_group
    if process_group is None:
        return None
    runtime.group.barrier()  # names a rank that is gone by now; torch would wait for it as long as for a save
    return new_host_group(_TIMEOUT_S, dist.get_process_group_ranks(process_group))
