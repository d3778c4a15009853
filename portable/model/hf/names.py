"""Which tensors of a folder's files make up a parameter; weights go back into the files as they came.

Experts are the one case where names differ: files hold a tensor for each expert, or all of them with gate and
up in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from portable.core.errors import ArtefactError
from portable.model.hf_names import plain_name
from portable.model.weight_stream import Fact, StoredWeights

_EXPERTS = re.compile(r"(?P<stem>.+\.experts)\.(?P<matrix>gate|up|down)")
_HALF = {"gate": 0, "up": 1}


class StoredNames:
    """The tensors of a folder by the names of an ``HfDecoder``'s parameters.

    ``rename`` turns a family's word of old into that of its code, e.g. embed_out into lm_head.
    """

    def __init__(self, stored: StoredWeights, rename: Callable[[str], str] = str) -> None:
        self.stored = stored
        self._stored = {plain_name(rename(name)): name for name in stored.shapes}

    def __contains__(self, name: str) -> bool:
        """Return whether the files hold the parameter."""
        return self.whole(name) is not None or self.fused(name) is not None or bool(self.each(name))

    def whole(self, name: str) -> str | None:
        """Return the tensor that is the parameter.

        Files that a base model wrote lack the first word of its name.
        """
        plain = plain_name(name)
        return self._stored.get(plain) or self._stored.get(plain.partition(".")[2])

    def each(self, name: str) -> list[str]:
        """Return the tensors of every expert, in order, that stacked are the parameter."""
        match = _EXPERTS.fullmatch(name)
        if match is None:
            return []
        found: list[str] = []
        while (one := f"{match['stem']}.{len(found)}.{match['matrix']}_proj.weight") in self._stored:
            found.append(self._stored[one])
        return found

    def fused(self, name: str) -> tuple[str, int | None] | None:
        """Return the tensor of all experts, and which half of its second dim is the parameter (None: all)."""
        match = _EXPERTS.fullmatch(name)
        if match is None:
            return None
        word = "down_proj" if match["matrix"] == "down" else "gate_up_proj"
        theirs = self._stored.get(f"{match['stem']}.{word}")
        return None if theirs is None else (theirs, _HALF.get(match["matrix"]))

    def unused(self, parameters: Iterable[str]) -> dict[str, str]:
        """Return the tensors that make up none of ``parameters``: the names in the code by those in files."""
        used: set[str] = set()
        for name in parameters:
            fused = self.fused(name)
            used.update(self.each(name))
            used.update(found for found in (self.whole(name), fused and fused[0]) if found)
        return {theirs: plain for plain, theirs in self._stored.items() if theirs not in used}

    def box(self, name: str, whole: Sequence[int], offset: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Return the box at ``offset`` of a parameter of shape ``whole``, reading no other bytes.

        Raises: ArtefactError if the files lack it or hold another shape.
        """
        stored = self.stored
        theirs = self.whole(name)
        if theirs is not None:
            self._check(name, theirs, whole)
            return stored.box(theirs, offset, shape)
        fused = self.fused(name)
        if fused is not None:
            theirs, half = fused
            experts, rows, columns = whole
            self._check(name, theirs, (experts, rows if half is None else 2 * rows, columns))
            return stored.box(theirs, (offset[0], offset[1] + (half or 0) * rows, offset[2]), shape)
        each = self.each(name)
        if len(each) != (whole[0] if whole else 0) or not each:
            raise ArtefactError(
                f"{stored.path} lacks '{name}'; if it is an older model, write it anew with transformers: "
                "AutoModelForCausalLM.from_pretrained(PATH).save_pretrained(NEW_PATH)"
            )
        wanted = each[offset[0] : offset[0] + shape[0]]
        for theirs in wanted:
            self._check(name, theirs, whole[1:])
        boxes = [stored.box(theirs, offset[1:], shape[1:]) for theirs in wanted]
        return torch.stack(boxes) if boxes else torch.empty(*shape)

    def outside(self, facts: Mapping[str, Fact]) -> dict[str, Fact]:
        """Return what the parameters ``facts`` are in the files."""
        found: dict[str, Fact] = {}
        for name, fact in facts.items():
            fused = self.fused(name)
            if fused is not None and self.whole(name) is None:
                experts, rows, columns = fact.shape
                shape = (experts, rows if fused[1] is None else 2 * rows, columns)
                found[fused[0]] = Fact(shape, fact.dtype)
            elif each := self.each(name):
                found |= {theirs: Fact(fact.shape[1:], fact.dtype) for theirs in each}
            else:
                found[self.whole(name) or name] = fact
        return found

    def carry(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Turn parameters into what the files hold; the half of a fused tensor waits for the other."""
        waiting: dict[str, dict[int, Tensor]] = {}
        for name, tensor in weights:
            fused, each = self.fused(name), self.each(name)
            if fused is not None and fused[1] is not None:
                halves = waiting.setdefault(fused[0], {})
                halves[fused[1]] = tensor
                if len(halves) == len(_HALF):
                    yield fused[0], torch.cat([halves[0], halves[1]], dim=1)
                    del waiting[fused[0]]
            elif each:
                yield from zip(each, tensor, strict=True)
            else:
                yield (fused[0] if fused else self.whole(name) or name), tensor

    def _check(self, name: str, theirs: str, shape: Sequence[int]) -> None:
        found = self.stored.shapes[theirs]
        if found != tuple(shape):
            raise ArtefactError(
                f"{self.stored.path}: '{theirs}' has shape {found}, but config.json makes '{name}' "
                f"{tuple(shape)}; the files do not belong together"
            )
