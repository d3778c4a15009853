"""Log-probabilities and cross entropies. Letters: N tokens, D hidden, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from portable.kernel.conformance.case import Case, Draw, Inputs, Layout

_16_BITS = ("bf16", "fp16")
_REACH = 5.0  # what a normal number may be, in standard deviations, and the size of a logit therefore
_INF = float("inf")


def _targets(draw: Draw, num_tokens: int, vocab_size: int, ignored: str) -> Tensor:
    """Return targets, of which "none", "some" or "all" are ignored, as different negative numbers."""
    targets = draw.whole(0, vocab_size, num_tokens)
    if ignored != "none":
        where = slice(None) if ignored == "all" else slice(1, None, 2)
        targets[where] = torch.tensor([-100, -1]).repeat(num_tokens)[: len(targets[where])]
    return targets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logits:
    """Logits and targets for an op that takes both."""

    num_tokens: int = 6
    vocab_size: int = 50
    std: float = 2.0
    ignored: str = "some"
    wide: bool = False
    rest: dict[str, float] = field(default_factory=dict[str, float])

    def build(self, draw: Draw) -> Inputs:
        logits = draw.normal(self.num_tokens, self.vocab_size, std=self.std, wide=self.wide)
        targets = _targets(draw, self.num_tokens, self.vocab_size, self.ignored)
        return {"logits": logits, "targets": targets, **self.rest}

    @property
    def scale(self) -> float:
        return _REACH * self.std / self.rest.get("temperature", 1.0)


def _equal(draw: Draw) -> Inputs:
    return {"logits": draw.normal(4, 33, std=0.0, mean=3.0), "targets": draw.whole(0, 33, 4)}


def _far_apart(draw: Draw) -> Inputs:
    """Logits whose exp overflows in every format unless the largest is taken off first."""
    inputs = _Logits(ignored="none").build(draw)
    inputs["logits"][:, ::7] = 1e4
    inputs["logits"][:, 1::7] = -1e4
    return inputs


def _masked_tokens(draw: Draw) -> Inputs:
    """Tokens that the grammar of an answer forbids, none of them a target."""
    inputs = _Logits(ignored="some").build(draw)
    forbidden = draw.whole(0, 2, 6, 50).bool()
    forbidden[torch.arange(6), inputs["targets"].clamp(min=0)] = False
    return {**inputs, "logits": inputs["logits"].masked_fill(forbidden, -_INF)}


def _ignored_rows_of(draw: Draw, value: float) -> Inputs:
    inputs = _Logits(ignored="some").build(draw)
    inputs["logits"][inputs["targets"] < 0] = value
    return inputs


def _impossible_target(draw: Draw) -> Inputs:
    inputs = _Logits(ignored="none").build(draw)
    inputs["logits"][2, inputs["targets"][2]] = -_INF
    return inputs


def _too_many_targets(draw: Draw) -> Inputs:
    return {**_Logits().build(draw), "targets": draw.whole(0, 50, 7)}


_PROBLEMS = {
    "plain": _Logits(),
    "nothing_ignored": _Logits(ignored="none"),
    "all_ignored": _Logits(ignored="all"),
    "no_tokens": _Logits(num_tokens=0),
    "one_token": _Logits(num_tokens=1, ignored="none"),
    "vocabulary_of_one": _Logits(vocab_size=1),
    "odd": _Logits(num_tokens=13, vocab_size=33),
    "many_tokens": _Logits(num_tokens=600, vocab_size=17),
    "large": _Logits(num_tokens=70, vocab_size=4099),
    "large_logits": _Logits(std=300.0),
    "tiny_logits": _Logits(std=1e-3),
}
_SPECIAL: dict[str, Callable[[Draw], Inputs]] = {
    "equal_logits": _equal,
    "logits_far_apart": _far_apart,
    "masked_tokens": _masked_tokens,
    "ignored_rows_of_minus_infinity": partial(_ignored_rows_of, value=-_INF),
    "ignored_rows_of_nan": partial(_ignored_rows_of, value=float("nan")),
}


def _logit_cases(op: str, rest: dict[str, dict[str, float]]) -> list[Case]:
    """Return the cases of an op of logits; ``rest`` are further arguments to try, by name of the case."""
    plain = _Logits()
    facts = {"vocab_size": 50}
    case = partial(Case, op=op, leaves=("logits",))
    problems = {**_PROBLEMS, **{name: _Logits(rest=given) for name, given in rest.items()}}
    return [
        *(
            case(
                name=name,
                build=problem.build,
                facts={"vocab_size": problem.vocab_size},
                scale=problem.scale,
                repeated=name == "large",
            )
            for name, problem in problems.items()
        ),
        *(
            case(name=name, build=build, scale=1e4 if build is _far_apart else plain.scale)
            for name, build in _SPECIAL.items()
        ),
        Case(op=op, name="impossible_target", build=_impossible_target, scale=plain.scale),
        *(
            case(
                name=layout.name,
                build=plain.build,
                layouts={"logits": layout, "targets": layout},
                scale=plain.scale,
                facts=facts,
            )
            for layout in Layout
        ),
        case(name="wide", build=_Logits(wide=True).build, scale=plain.scale, dtypes=_16_BITS, facts=facts),
        Case(op=op, name="more_targets_than_rows", build=_too_many_targets, invalid=True),
    ]


class Peers:
    """The other ranks of a vocabulary that is cut in pieces: what ``reduce`` is to them.

    ``logits`` are the columns of all others, ``columns`` their numbers.
    """

    def __init__(self, logits: Tensor, columns: Tensor, targets: Tensor) -> None:
        self._tensors = logits, columns, targets
        self._calls: list[str] = []
        self._largest: Tensor | None = None

    def __call__(self, x: Tensor, op: str) -> Tensor:
        """Return what ``x`` comes to over all ranks."""
        self._calls.append(op)
        logits, columns, targets = self._tensors
        logits = logits.to(x.dtype)
        if op == "max":
            self._largest = torch.maximum(x, logits.amax(-1)) if logits.shape[1] else x.clone()
            return self._largest.clone()
        largest = torch.zeros_like(x[0]) if self._largest is None else self._largest
        sums = (logits - largest[:, None]).exp().sum(-1)
        chosen = torch.where(columns == targets[:, None], logits, 0.0).sum(-1)
        return x + torch.stack((sums, chosen))

    def converted(self, convert: Callable[[Tensor], Tensor]) -> Peers:
        """Return peers that were not asked yet."""
        logits, columns, targets = map(convert, self._tensors)
        return Peers(logits, columns, targets)

    def complaint(self) -> str:
        """Return what was wrong with the calls, or ""."""
        asked = ", ".join(self._calls)
        return (
            ""
            if self._calls == ["max", "sum"]
            else f"it must call reduce with max, then sum; it called: {asked}"
        )


def _shard(draw: Draw, whole: _Logits, start: int, stop: int) -> Inputs:
    """Return the inputs of the rank that holds the columns ``start`` to ``stop`` - 1."""
    return _cut(whole.build(draw), start, stop)


def _cut(inputs: Inputs, start: int, stop: int) -> Inputs:
    logits, targets = inputs["logits"], inputs["targets"]
    columns = torch.arange(logits.shape[1])
    others = (columns < start) | (columns >= stop)
    peers = Peers(logits[:, others].contiguous(), columns[others], targets)
    own = logits[:, start:stop].contiguous()
    rest = {name: value for name, value in inputs.items() if name not in ("logits", "targets")}
    return {"logits": own, "targets": targets, "vocab_start": start, "reduce": peers, **rest}


def _shard_of(draw: Draw, build: Callable[[Draw], Inputs], start: int, stop: int) -> Inputs:
    return _cut(build(draw), start, stop)


def _parallel_cases() -> list[Case]:
    case = partial(Case, op="cross_entropy__vocab_parallel", leaves=("logits",))
    plain = _Logits()
    shards = {"first": (0, 20), "middle": (20, 37), "last": (37, 50), "only": (0, 50), "one_column": (7, 8)}
    problems = {
        "nothing_ignored": _Logits(ignored="none"),
        "all_ignored": _Logits(ignored="all"),
        "no_tokens": _Logits(num_tokens=0),
        "large_logits": _Logits(std=300.0),
        "z_loss": _Logits(rest={"z_loss": 0.1}),
        "many_tokens": _Logits(num_tokens=600),
    }
    return [
        *(
            case(
                name=f"{name}_shard",
                build=partial(_shard, whole=plain, start=start, stop=stop),
                scale=plain.scale,
                facts={"vocab_size": stop - start},
            )
            for name, (start, stop) in shards.items()
        ),
        *(
            case(name=name, build=partial(_shard, whole=whole, start=20, stop=37), scale=whole.scale)
            for name, whole in problems.items()
        ),
        case(
            name="large",
            build=partial(_shard, whole=_Logits(num_tokens=40, vocab_size=4099), start=1000, stop=3001),
            scale=plain.scale,
            repeated=True,
        ),
        *(
            case(
                name=name,
                build=partial(_shard_of, build=build, start=10, stop=30),
                scale=1e4 if build is _far_apart else plain.scale,
            )
            for name, build in _SPECIAL.items()
        ),
        *(
            case(
                name=layout.name,
                build=partial(_shard, whole=_Logits(ignored="none"), start=20, stop=37),
                layouts={"logits": layout},
                scale=plain.scale,
            )
            for layout in Layout
            # The peers hold what belongs to each row; rows of one memory would not fit them.
            if layout is not Layout.expanded
        ),
        case(
            name="wide",
            build=partial(_shard, whole=_Logits(wide=True), start=20, stop=37),
            scale=plain.scale,
            dtypes=_16_BITS,
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Hidden states and an output head."""

    num_tokens: int = 6
    vocab_size: int = 50
    hidden_size: int = 32
    std: float = 1.0
    ignored: str = "some"
    wide: tuple[str, ...] = ()
    rest: dict[str, float] = field(default_factory=dict[str, float])

    def build(self, draw: Draw) -> Inputs:
        size = self.hidden_size
        return {
            "hidden": draw.normal(self.num_tokens, size, std=self.std, wide="hidden" in self.wide),
            "weight": draw.normal(self.vocab_size, size, std=size**-0.5, wide="weight" in self.wide),
            "targets": _targets(draw, self.num_tokens, self.vocab_size, self.ignored),
            **self.rest,
        }

    @property
    def scale(self) -> float:
        return _REACH * self.std / self.rest.get("temperature", 1.0)


_HEADS = {
    "plain": _Head(),
    "nothing_ignored": _Head(ignored="none"),
    "all_ignored": _Head(ignored="all"),
    "no_tokens": _Head(num_tokens=0),
    "one_token": _Head(num_tokens=1, ignored="none"),
    "vocabulary_of_one": _Head(vocab_size=1),
    "odd": _Head(num_tokens=13, vocab_size=37, hidden_size=33),
    "one_hidden": _Head(hidden_size=1),
    "many_tokens": _Head(num_tokens=600, vocab_size=17),
    "large": _Head(num_tokens=300, vocab_size=1031, hidden_size=64),
    "large_vocabulary": _Head(num_tokens=5, vocab_size=9001, hidden_size=16),
    "large_logits": _Head(std=100.0),
    "tiny_logits": _Head(std=1e-3),
    "hot": _Head(rest={"temperature": 2.5}),
    "cold": _Head(rest={"temperature": 0.3}),
}
_HEAD_LEAVES = ("hidden", "weight")


def _case_of_head(name: str, head: _Head, **rest: Any) -> Case:  # Any: fields of Case
    given: dict[str, Any] = {"leaves": _HEAD_LEAVES, **rest}  # Any: fields of Case
    facts = {"vocab_size": head.vocab_size}
    return Case(op="token_log_probs", name=name, build=head.build, scale=head.scale, facts=facts, **given)


def _wrong_head(draw: Draw) -> Inputs:
    return {**_Head().build(draw), "weight": draw.normal(50, 31)}


def _cold_as_zero(draw: Draw) -> Inputs:
    return {**_Head().build(draw), "temperature": 0.0}


_HEAD_CASES = [
    *(_case_of_head(name, head, repeated=name == "large") for name, head in _HEADS.items()),
    *(
        _case_of_head(layout.name, _Head(), layouts={"hidden": layout, "weight": layout, "targets": layout})
        for layout in Layout
    ),
    _case_of_head("constant_weight", _Head(), leaves=("hidden",)),
    _case_of_head("only_weight", _Head(), leaves=("weight",)),
    *(
        _case_of_head(f"wide_{'_and_'.join(wide)}", _Head(wide=wide), dtypes=_16_BITS)
        for wide in (("hidden",), ("weight",), _HEAD_LEAVES)
    ),
    Case(op="token_log_probs", name="head_that_does_not_fit", build=_wrong_head, invalid=True),
    Case(op="token_log_probs", name="temperature_of_zero", build=_cold_as_zero, invalid=True),
]

CASES = (
    *_HEAD_CASES,
    *_logit_cases("gather_log_probs", {"hot": {"temperature": 2.5}, "cold": {"temperature": 0.3}}),
    *_logit_cases("cross_entropy", {"z_loss": {"z_loss": 0.1}}),
    *_parallel_cases(),
)
