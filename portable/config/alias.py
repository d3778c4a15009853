"""Other projects' names for our settings of parallelism: users bring habits, we bring one meaning."""

from __future__ import annotations

from collections.abc import Sequence

_MEGATRON = {
    "tensor_model_parallel_size": "tensor_parallel_degree",
    "pipeline_model_parallel_size": "pipeline_parallel_degree",
    "context_parallel_size": "context_parallel_degree",
    "expert_model_parallel_size": "expert_parallel_degree",
    "sequence_parallel": "enable_sequence_parallel",
}
_DEEPSPEED = {
    "autotp_size": "tensor_parallel_degree",
    "mics_shard_size": "data_parallel_shard_degree",
    "zero_hpz_partition_size": "data_parallel_shard_degree",
}
_COLOSSAL = {"tp_size": "tensor_parallel_degree", "pp_size": "pipeline_parallel_degree"}
_SHORT = {
    "pp": "pipeline_parallel_degree",
    "dp": "data_parallel_replicate_degree",
    "fsdp": "data_parallel_shard_degree",
    "cp": "context_parallel_degree",
    "tp": "tensor_parallel_degree",
    "ep": "expert_parallel_degree",
}
_SWITCHES = {  # Megatron's word for a method, and ours
    "cp_comm_type": ("context_parallel_method", {"p2p": "ring", "a2a": "ulysses", "a2a+p2p": "hybrid"}),
}
PARALLEL_ALIASES = {**_MEGATRON, **_DEEPSPEED, **_COLOSSAL, **_SHORT}
_GROUP = "parallel."


def resolve_aliases(overrides: Sequence[str]) -> list[str]:
    """Return the command line with every ``parallel.ALIAS=`` under our name; Hydra then checks it as ours."""
    return [_resolve(word) for word in overrides]


def _resolve(word: str) -> str:
    key, equals, value = word.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    path = key.removeprefix(prefix)
    if not path.startswith(_GROUP):
        return word
    name = path.removeprefix(_GROUP)
    if name in _SWITCHES:
        name, words = _SWITCHES[name]
        value = ",".join(words.get(choice, choice) for choice in value.split(","))
    return f"{prefix}{_GROUP}{PARALLEL_ALIASES.get(name, name)}{equals}{value}"
