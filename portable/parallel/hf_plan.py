"""How models of ``transformers`` divide: their configs say it, by ``base_model_tp_plan``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from portable.core.errors import ConfigError
from portable.model.attention import AttentionCore
from portable.model.hf.adapter import HfDecoder
from portable.model.moe.experts import Experts
from portable.parallel.config import ParallelConfig
from portable.parallel.context.check import check_context
from portable.parallel.expert.check import check_expert
from portable.parallel.shard_plan import Role, ShardPlan
from portable.parallel.tensor.check import TensorFacts, check_tensor

_ROLES = {"colwise": Role.column, "rowwise": Role.row, "replicated_with_grad_allreduce": Role.head_norm}
_EXPERTS = {"gate": Role.expert_column, "up": Role.expert_column, "down": Role.expert_row}
_KEYS_AND_VALUES = ("k_proj", "v_proj")
_REMEDY = "use data, pipeline or context parallelism (e.g. strategy=fsdp)"


def plan_of_hf(model: HfDecoder, config: ParallelConfig) -> tuple[ShardPlan, TensorFacts]:
    """Return the table of a whole model, and the sizes that are divided.

    Raises: ConfigError if the model cannot be divided as ``config`` asks, with what would work.
    """
    if config.tensor_parallel_degree > 1:
        _check_divisible(model, config.tensor_parallel_mode)
    rules = dict(_rules(model, config))
    facts = _facts(model, rules)
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    check_tensor(config, facts)
    check_context(config, facts.num_heads, facts.num_kv_heads)
    check_expert(config, len(experts[0].gate) if experts else 0)
    places = model.places
    plan = ShardPlan(
        rules=tuple({_pattern(name): role for name, role in rules.items()}.items()),
        embed=places.embed,
        blocks=places.blocks,
        norm=places.norm,
        head=places.head,
        hidden="hidden_states",
        token_inputs={"inputs": 0, "position_ids_BT": 0, "targets": -1},
    )
    return plan, facts


def _check_divisible(model: HfDecoder, mode: str) -> None:
    kind = type(model.get_submodule(model.places.base)).__name__
    embed = model.get_submodule(model.places.embed)
    dropout = max((m.p for m in model.modules() if isinstance(m, nn.Dropout)), default=0.0)
    dropout = dropout or model.settings.router_jitter
    obstacle = ""
    if not model.settings.tensor_plan:
        obstacle = "its config does not say how its matrices divide (it has no base_model_tp_plan)"
    elif not model.has_plain_head:
        obstacle = "its head does more than multiply by a matrix"
    elif type(embed) is not nn.Embedding:
        obstacle = f"its embedding is a {type(embed).__name__}, which does more than look up"
    elif not model.places.norm:
        obstacle = "its config does not name its last norm (it has no base_model_pp_plan)"
    elif dropout:
        obstacle = "its ranks would draw other random numbers (a dropout or jitter is above 0; 0 works)"
    if mode != "1d":
        raise ConfigError(
            f"parallel.tensor_parallel_mode={mode} puts layers of its own in the places of ours, and a "
            f"{kind} has those of transformers; use tensor_parallel_mode=1d"
        )
    if obstacle:
        raise ConfigError(
            f"a {kind} cannot be divided by parallel.tensor_parallel_degree: {obstacle}; {_REMEDY}"
        )


def _rules(model: HfDecoder, config: ParallelConfig) -> Iterator[tuple[str, Role]]:
    """Yield the role of every module that has one, and of experts' parameters; regions last."""
    places = model.places
    styles = {f"{places.base}.{name}": style for name, style in model.settings.tensor_plan.items()}
    yield places.embed, Role.embedding
    if places.head:
        yield places.head, Role.head
    regions: list[str] = []
    for name, module in model.named_modules():
        holder = name.rpartition(".")[0]
        if isinstance(module, AttentionCore):
            yield name, Role.attention_core
        elif isinstance(module, Experts):
            yield from ((f"{name}.{key}", role) for key, role in _EXPERTS.items())
            regions.append(holder)
        elif name not in (places.embed, places.head) and dict(module.named_parameters(recurse=False)):
            role = _role(name, module, styles.get(_pattern(name)), config)
            yield name, role
            if role in (Role.column, Role.kv_column, Role.row):
                regions.append(holder)
    yield from ((name, Role.region) for name in regions)


def _role(name: str, module: nn.Module, style: str | None, config: ParallelConfig) -> Role:
    if style is None:  # whole on every rank: norms, routers, matrices of which nothing is said
        return Role.norm if all(p.ndim == 1 for p in module.parameters(recurse=False)) else Role.replicated
    if style in _ROLES:
        role = _ROLES[style]
        return Role.kv_column if role is Role.column and name.endswith(_KEYS_AND_VALUES) else role
    if config.tensor_parallel_degree > 1:
        raise ConfigError(
            f"the model's config divides '{name}' by '{style}', which is not built in (only "
            f"{', '.join(_ROLES)}); {_REMEDY}"
        )
    return Role.replicated


def _facts(model: HfDecoder, rules: dict[str, Role]) -> TensorFacts:
    cores = [(name, m) for name, m in model.named_modules() if isinstance(m, AttentionCore)]
    attention = tuple(name.removesuffix("core") for name, _ in cores)
    sizes = {
        model.get_submodule(name).get_parameter("weight").shape[0]
        for name, role in rules.items()
        if role is Role.column and not name.startswith(attention)
    }
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    settings = model.settings
    return TensorFacts(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_heads=settings.num_heads,
        num_kv_heads=settings.num_kv_heads,
        head_dim=settings.head_dim,
        inner_sizes=tuple(sorted(sizes | {module.gate.shape[1] for module in experts})),
        has_experts=bool(experts),
    )


def _pattern(name: str) -> str:
    """Return the name with a star for the number of the layer, which all layers' names then share."""
    return re.sub(r"\.\d+\.", ".*.", name)
