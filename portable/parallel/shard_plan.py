"""How a family of models divides: a table from the names of its modules to the part each plays.

The table is data. It says nothing of degrees or of communication, so that one serves every tensor-parallel
mode, and models that are not ours can be given one from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from portable.core.errors import ConfigError


class Role(Enum):
    """What a module, or a parameter of a module, is to the division of a model.

    Matrices lie as in ``nn.Linear``: (out, in); those of experts have one dim more, in front.
    """

    region = "region"  # reads hidden states and returns what is added to them: attention, feed-forward
    column = "column"  # inside a region: its outputs are divided
    kv_column = "kv_column"  # a column whose outputs are the key-value heads
    row = "row"  # inside a region: its inputs are divided
    expert_column = "expert_column"  # columns of experts (E, out, in)
    expert_row = "expert_row"  # rows of experts (E, out, in)
    router = "router"  # scores the experts, from whole hidden states
    embedding = "embedding"  # vocabulary × hidden
    head = "head"  # the same, for the output
    norm = "norm"  # scales hidden states, dim by dim
    head_norm = "head_norm"  # scales each head, all by one vector
    replicated = "replicated"  # whole on every rank
    attention_core = "attention_core"  # mixes heads; nothing of it is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The table of a family, and the names of what every decoder has.

    ``rules`` are (pattern, role), the first that fits counts. A pattern has as many words between dots as
    the name, and ``*`` within a word. ``ids`` is the argument that is
    embedded, ``token_inputs`` are those arguments of the model that hold a value for
    every token (B, T), with what pads them; ``segments`` is the one that bounds segments over the flattened
    tokens, ``targets`` the one that turns the result from hidden states into log-probabilities, ``cache``
    the one that holds earlier keys and values. ``hidden`` is what regions call their input.
    """

    rules: tuple[tuple[str, Role], ...]
    embed: str = "embed"
    blocks: str = "blocks"
    norm: str = "norm"
    head: str = "head"
    hidden: str = "x_BTD"
    ids: str = "inputs"
    token_inputs: Mapping[str, int]
    segments: str = "cu_seqlens"
    targets: str = "targets"
    cache: str = "cache"

    def role(self, name: str) -> Role | None:
        """Return the role of a module or parameter, None if no rule fits."""
        return next((role for pattern, role in self.rules if _fits(pattern, name)), None)

    def role_of_parameter(self, name: str) -> Role:
        """Return the role of a parameter: its own, or its module's.

        Raises: ConfigError if neither has one: then nobody knows what its gradient on a rank is a part of.
        """
        role = self.role(name) or self.role(name.rpartition(".")[0])
        if role is None:
            raise ConfigError(
                f"the shard plan has no rule for the parameter '{name}', so the model cannot be divided; add "
                f"one for '{name.rpartition('.')[0]}', e.g. Role.replicated"
            )
        return role


def _fits(pattern: str, name: str) -> bool:
    words, expected = name.split("."), pattern.split(".")
    return len(words) == len(expected) and all(map(fnmatchcase, words, expected))


def _block(name: str) -> tuple[tuple[str, Role], ...]:
    """Return the rules of a decoder's layer, dense or with experts, with either kind of attention."""
    rules = {
        "*_norm": Role.norm,
        "attention": Role.region,
        "attention.q": Role.column,
        "attention.[kv]": Role.kv_column,
        "attention.[qk]_norm": Role.head_norm,
        "attention.o": Role.row,
        "attention.core": Role.attention_core,
        # Latent attention: the latents are whole on every rank, the heads made from them divided.
        "attention.*_down": Role.replicated,
        "attention.*_down_norm": Role.replicated,
        "attention.*_up": Role.column,
        "mlp": Role.region,
        "mlp.gate": Role.column,
        "mlp.up": Role.column,
        "mlp.down": Role.row,
        "mlp.router": Role.router,
        "mlp.experts.gate": Role.expert_column,
        "mlp.experts.up": Role.expert_column,
        "mlp.experts.down": Role.expert_row,
        "mlp.shared": Role.region,
        "mlp.shared.gate": Role.column,
        "mlp.shared.up": Role.column,
        "mlp.shared.down": Role.row,
    }
    return tuple((f"{name}.{inner}", role) for inner, role in rules.items())


DECODER = ShardPlan(
    rules=(
        ("embed", Role.embedding),
        ("head", Role.head),
        ("norm", Role.norm),
        *_block("blocks.*"),
        ("mtp.*.*norm", Role.norm),
        ("mtp.*.projection", Role.replicated),
        *_block("mtp.*.block"),
    ),
    token_inputs={"inputs": 0, "position_ids_BT": 0, "targets": -1},
)
"""Decoders of ``portable.model``."""
