"""A traced step, and its file: safetensors, with all but the sketches as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from portable.core.errors import ArtefactError
from portable.core.storage import atomic_path, explain_os_errors
from portable.trace.summary import Summary

FORMAT = 1
_KEY = "portable_trace"
Summaries = dict[str, Summary]


@dataclass(slots=True)
class Node:
    """One call of a module or of a kernel in the traced micro-batch.

    A kernel is named by where it was called, ``blocks.3.mlp:swiglu``; a further call of the same carries its
    number, ``blocks.3.mlp:swiglu#2``. ``row`` is empty for modules. The gradients of inputs are those that
    this call alone contributes. ``backward_place`` is the place in the order in which calls ended their
    backward pass, -1 for one that has none.
    """

    name: str
    row: str = ""
    inputs: Summaries = field(default_factory=dict)
    outputs: Summaries = field(default_factory=dict)
    grad_outputs: Summaries = field(default_factory=dict)
    grad_inputs: Summaries = field(default_factory=dict)
    backward_place: int = -1

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel's call."""
        return bool(self.row)

    @property
    def module(self) -> str:
        """The module that was called, or that called the kernel."""
        return self.name.partition(":")[0].partition("#")[0]


@dataclass(slots=True)
class Recording:
    """One step: ``header`` says of what, with what and where; ``nodes`` are in the order in which they ended.

    ``parameters`` are from before the step, ``gradients`` those that the optimiser was given before clipping.
    """

    header: dict[str, Any]  # Any: JSON values
    nodes: list[Node] = field(default_factory=list)
    parameters: Summaries = field(default_factory=dict)
    gradients: Summaries = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # of each micro-batch, as handed to the backward pass

    def batch(self) -> Summaries:
        """Return the inputs of the model, the last to end."""
        return next((node.inputs for node in reversed(self.nodes) if not node.is_kernel), {})

    def save(self, path: Path) -> None:
        """Write the file; sketches of equal tensors are kept once. Raises: StorageError."""
        places: dict[str, int] = {}
        sketches: list[Tensor] = []

        def pack(summaries: Mapping[str, Summary]) -> dict[str, Any]:  # Any: JSON values
            packed: dict[str, Any] = {}
            for name, summary in summaries.items():
                key = f"{summary.dtype}{summary.digest}"
                if key not in places:
                    places[key] = len(sketches)
                    sketches.append(summary.sketch)
                packed[name] = {**summary.facts(), "sketch": places[key]}
            return packed

        nodes = [
            {
                "name": node.name,
                "row": node.row,
                "backward_place": node.backward_place,
                **{name: pack(summaries) for name, summaries in _sides(node)},
            }
            for node in self.nodes
        ]
        content = {
            "format": FORMAT,
            "header": self.header,
            "nodes": nodes,
            "parameters": pack(self.parameters),
            "gradients": pack(self.gradients),
            "losses": self.losses,
        }
        table = torch.stack(sketches) if sketches else torch.zeros(0)
        with atomic_path(path) as temporary:
            save_file({"sketches": table}, temporary, metadata={_KEY: json.dumps(content)})

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a file. Raises: ArtefactError if it is missing, damaged, or no trace of this format."""
        if not path.is_file():
            raise ArtefactError(
                f"trace {path} does not exist; make one with portable trace record … --out {path}"
            )
        try:
            with explain_os_errors(path, "read"), safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})[_KEY])
                table: Tensor = file.get_tensor("sketches")
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ArtefactError(f"{path} is no trace, or a damaged one ({error}); record it again") from error
        if content["format"] != FORMAT:
            raise ArtefactError(
                f"trace {path} has format {content['format']}, this version reads {FORMAT}; record it again"
            )

        def unpack(rows: Mapping[str, Any]) -> Summaries:  # Any: JSON values
            return {name: _summary(row, table) for name, row in rows.items()}

        nodes = [
            Node(
                row["name"],
                row["row"],
                *(unpack(row[name]) for name in ("inputs", "outputs", "grad_outputs", "grad_inputs")),
                backward_place=row["backward_place"],
            )
            for row in content["nodes"]
        ]
        return cls(
            content["header"],
            nodes,
            unpack(content["parameters"]),
            unpack(content["gradients"]),
            content["losses"],
        )


def _sides(node: Node) -> Iterator[tuple[str, Summaries]]:
    yield "inputs", node.inputs
    yield "outputs", node.outputs
    yield "grad_outputs", node.grad_outputs
    yield "grad_inputs", node.grad_inputs


def _summary(row: Mapping[str, Any], table: Tensor) -> Summary:  # Any: JSON values
    return Summary(
        tuple(row["shape"]),
        row["dtype"],
        row["norm"],
        row["largest"],
        row["mean"],
        row["num_nonfinite"],
        row["digest"],
        table[row["sketch"]],
    )
