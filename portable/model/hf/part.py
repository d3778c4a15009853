"""Models of ``transformers`` with some of their modules taken out, or others put in."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class StageLayers(nn.ModuleList):
    """The layers of a pipeline stage under their numbers in the whole model.

    To the model's loop the list has its whole length; the layers of other stages let hidden states pass.
    """

    def __init__(self, layers: Mapping[str, nn.Module], num_layers: int) -> None:
        super().__init__()
        self.num_layers = num_layers
        for name, layer in layers.items():
            self.add_module(name, layer)

    def __len__(self) -> int:
        """Return the layers of the whole model."""
        return self.num_layers

    def __iter__(self) -> Iterator[Any]:
        """Iterate over all layers, and what stands for them."""
        return iter(self[:])

    # Any: a layer, what stands for one, or a list of both
    def __getitem__(self, index: int | slice) -> Any:
        """Return one or several of all layers."""
        return [self._modules.get(str(number)) or as_it_is for number in range(self.num_layers)][index]


class OwnHead:
    """What the code of a model does after its base model, on hidden states of our own."""

    def __init__(self, lm: nn.Module, base: str, head: str) -> None:  # names of children of ``lm``
        self._lm = lm
        self._base, self._head = base, head

    def __call__(self, hidden: Tensor, head: nn.Module | None, weight_VD: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden (..., D); its matrix may stand for the module ``head``."""
        children = {self._base: _Says(hidden)} | (
            {self._head: _Matrix(weight_VD) if head is None else head} if self._head else {}
        )
        ids = torch.zeros(hidden.shape[:-1], dtype=torch.long, device=hidden.device)
        return twin_of(self._lm, children)(input_ids=ids, use_cache=False).logits

    def is_plain(self, hidden_size: int) -> bool:
        """Return whether logits are hidden states times a matrix, and nothing more; found out by trying."""
        head = dict(self._lm.named_children()).get(self._head)
        if type(head) is not nn.Linear or "bias" in dict(head.named_parameters()):
            return False
        with torch.no_grad():
            # Large, so that a cap on logits shows.
            numbers = torch.arange(5 * hidden_size, device="cpu").float().sin().view(5, hidden_size)
            hidden, weight_VD = 50.0 * numbers[:2].unsqueeze(0), numbers[2:]
            return torch.allclose(self(hidden, None, weight_VD), F.linear(hidden, weight_VD))


def twin_of(module: AnyModule, others: Mapping[str, nn.Module]) -> AnyModule:
    """Return a twin of ``module`` whose children may be changed alone, with ``others`` among them."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):
            vars(twin)[name] = copy.copy(value)
    vars(twin)["_modules"].update(others)  # add_module would refuse words that are attributes, too
    return twin


def as_it_is(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # Any: what layers take besides
    """Return ``hidden``."""
    return hidden


class _Says(nn.Module):
    """A base model whose hidden states are known."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> _Said:  # Any: what base models take
        return _Said(self._hidden)


class _Said:
    """An output of a base model: hidden states, and None for whatever else may be asked for."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None


class _Matrix(nn.Module):
    """A head that is this matrix."""

    def __init__(self, weight_VD: Tensor) -> None:
        super().__init__()
        self._multiply: Callable[[Tensor], Tensor] = lambda hidden: F.linear(hidden, weight_VD)

    def forward(self, hidden: Tensor) -> Tensor:
        return self._multiply(hidden)
