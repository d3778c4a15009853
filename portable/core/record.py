"""The words that packages exchange: documents, conversations, token batches.

Shapes: B rows, T tokens a row, S segments (documents or conversations packed into the rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


IGNORED = -100  # the field's usual mark for a target that does not count


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a stable id. ``metadata`` holds JSON values only: source, path, language ..."""

    text: str
    id: str
    metadata: dict[str, Any] = field(default_factory=dict)  # Any: whatever JSON the source carried


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, with where they came from in ``metadata``."""

    messages: tuple[Message, ...]
    id: str
    metadata: dict[str, Any] = field(default_factory=dict)  # Any: JSON provenance

    def to_json(self) -> dict[str, Any]:  # Any: JSON values
        """Return the line that a conversations file holds."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        return {"id": self.id, "messages": messages, "metadata": self.metadata}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Self:  # Any: JSON values
        """Read a line of a conversations file."""
        messages = tuple(Message(turn["role"], turn["content"]) for turn in line["messages"])
        return cls(messages, str(line["id"]), dict(line.get("metadata") or {}))


@dataclass(slots=True)
class Batch:
    """The token rows of one micro-batch.

    Targets are already shifted: position t predicts ``target_ids_BT[t]``. ``loss_weight_BT`` is 0 where a
    target is not learnt. ``cu_seqlens`` (S + 1,) int32 holds the segment boundaries over the flattened B * T
    tokens, or is None when every row is one segment; attention never crosses a boundary, and
    ``position_ids_BT`` restarts at each.
    """

    input_ids_BT: Tensor
    target_ids_BT: Tensor
    loss_weight_BT: Tensor
    position_ids_BT: Tensor
    cu_seqlens: Tensor | None = None

    @property
    def num_terms(self) -> float:
        """What the loss is a mean over: here, the total weight of the target tokens."""
        return float(self.loss_weight_BT.sum())

    @property
    def learnt_target_ids_BT(self) -> Tensor:  # noqa: N802 - the suffix is the shape
        """The targets, with ``IGNORED`` where nothing is learnt: the model's head skips those."""
        return self.target_ids_BT.masked_fill(self.loss_weight_BT == 0, IGNORED)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model reads in this micro-batch."""
        return self.input_ids_BT.numel()

    def tensors(self) -> list[Tensor]:
        """Return the tensors of all fields."""
        return list(self._tensor_fields().values())

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the same batch with ``function`` applied to every tensor."""
        return replace(self, **{name: function(value) for name, value in self._tensor_fields().items()})

    def to(self, device: torch.device) -> Self:
        """Return the same batch on ``device``; the host does not wait for copies from pinned memory."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def _tensor_fields(self) -> dict[str, Tensor]:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if hasattr(value, "device")}
